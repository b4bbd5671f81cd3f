"""The walls around a host: found by trying what works here, put up when it starts, and gone with it.

    layers        which of them; `FLASH_SANDBOX`
    cell          one host's: what it is started with, who it becomes, what it may take
    bubblewrap    namespaces and a read-only root
    cgroup        memory and processes, where groups can be made; else `private_bytes` is watched
    processes     trees of them, and that they are gone
    egress        the way out, for environments that declare one; `destinations` says where to

What a host does itself, before it loads anything, is `flash.host.child.confinement`. What is promised where:
`docs/security.md`.
"""

from flash.host.sandbox.bubblewrap import EGRESS_SOCKET
from flash.host.sandbox.cell import Bounds, Cell
from flash.host.sandbox.destinations import LOOPBACK, operator
from flash.host.sandbox.egress import Decision, Egress
from flash.host.sandbox.layers import NONE, Layers, chosen, found
from flash.host.sandbox.processes import private_bytes

__all__ = [
    "EGRESS_SOCKET",
    "LOOPBACK",
    "NONE",
    "Bounds",
    "Cell",
    "Decision",
    "Egress",
    "Layers",
    "chosen",
    "found",
    "operator",
    "private_bytes",
]
