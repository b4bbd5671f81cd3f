"""A hub of many versions, on a real server."""

import asyncio
import time

from flash.bus.jetstream import connect
from flash.bus.server import NatsServer
from flash.client import environments, versions
from flash.contracts.requests import EnvironmentVersion
from flash.store.memory import MemoryStore
from services.hub.service import Hub
from services.hub.settings import Settings
from services.hub.versions import environment_id, kept, pointed, version_id

MANY = 1_000


def version(name: str, number: int) -> EnvironmentVersion:
    digest = f"{number:012x}".ljust(64, "0")
    return EnvironmentVersion(
        id=f"local/{name}", version=digest[:12], digest=digest, key="k", packed_bytes=1_000, published_at=float(number),
        rows={"train": 100, "eval": 20}, prompt_text="Be kind. " * 1_000,
    )  # fmt: skip


async def test_a_thousand_environments_and_a_thousand_versions_are_listed_at_once(server: NatsServer) -> None:
    bus = await connect(server.url, MemoryStore(), name="hub:1")
    await bus.answer("hub", Hub(bus, MemoryStore(), Settings(), now=time.time).answers())
    made = [version(f"env-{number:04d}", number) for number in range(MANY)]
    same = [version("same", number) for number in range(MANY)]
    pointers, details = bus.records("environments"), bus.records("versions")
    for start in range(0, MANY, 100):
        await asyncio.gather(
            *(
                pointers.update(environment_id("local", v.id[6:]), lambda _, v=v: pointed(None, v))  # type: ignore[misc]
                for v in made[start : start + 100]
            ),
            *(
                details.update(version_id("local", "same", v.version), lambda _, v=v: kept(None, v))  # type: ignore[misc]
                for v in same[start : start + 100]
            ),
        )
    await pointers.update(environment_id("local", "same"), lambda _: pointed(None, same[7]))
    client = await connect(server.url, MemoryStore(), name="cli:1")

    before_s = time.process_time()
    listed = await environments(client)
    listed_s = time.process_time() - before_s
    found, newest = await versions(client, "local/same")
    found_s = time.process_time() - before_s - listed_s
    await client.close(0)
    await bus.close(0)

    assert [v.id for v in listed] == [*(v.id for v in made), "local/same"]
    assert [v.version for v in found] == [v.version for v in reversed(same)]
    assert newest == same[7].version
    # Of the hub and of whoever asks together, on however busy a machine.
    assert listed_s < 0.3
    assert found_s < 0.3
