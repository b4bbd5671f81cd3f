"""The walls around a host: found by trying what works here, put up when it starts, and gone with it.

    layers        which of them; `FLASH_SANDBOX`
    cell          one host's, or one installer's: what it is started with, who it becomes, what it may take
    others        users that nobody is, and what such a one can read
    bubblewrap    namespaces and a read-only root
    cgroup        memory and processes, where groups can be made; else `private_bytes` is watched
    processes     trees of them, and that they are gone
    egress        the way out, for environments that declare one and for installers; `destinations` says where to,
                  `upstream` through which proxies of the operator's

What a host does itself, before it loads anything, is `flash.host.child.confinement`. What is promised where:
`docs/security.md`.
"""

from flash.host.sandbox.bubblewrap import EGRESS_SOCKET
from flash.host.sandbox.cell import Bounds, Cell, remove_tree
from flash.host.sandbox.destinations import LOOPBACK, operator
from flash.host.sandbox.egress import Decision, Egress
from flash.host.sandbox.layers import NONE, Layers, chosen, found
from flash.host.sandbox.processes import private_bytes
from flash.host.sandbox.upstream import Upstream

__all__ = [
    "EGRESS_SOCKET",
    "LOOPBACK",
    "NONE",
    "Bounds",
    "Cell",
    "Decision",
    "Egress",
    "Layers",
    "Upstream",
    "chosen",
    "found",
    "operator",
    "private_bytes",
    "remove_tree",
]
