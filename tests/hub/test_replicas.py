"""Two hubs on a real server, and people who push to whichever answers."""

import asyncio
from pathlib import Path

from flash.bus import Bus
from flash.bus.jetstream import connect
from flash.bus.server import NatsServer
from flash.client import fetch_environment, publish_environment, versions
from flash.contracts.hosting import CheckReport, EnvironmentCheck
from flash.contracts.requests import EnvironmentVersion
from flash.store.files import FileStore
from services.hub.service import Hub
from services.hub.settings import Settings


async def sound(request: EnvironmentCheck) -> CheckReport:
    return CheckReport(rows={"train": 1})


async def test_pushes_of_one_name_at_once_are_as_many_versions_and_each_is_whole(
    server: NatsServer, tmp_path: Path
) -> None:
    store = FileStore(tmp_path / "store")
    buses: list[Bus] = []
    for number in range(2):
        buses.append(bus := await connect(server.url, store, name=f"hub:{number}"))
        await bus.answer("hub", Hub(bus, store, Settings(), now=lambda: 7.0).answers())
    await buses[0].answer("scorer", {EnvironmentCheck: sound})
    folders = [tmp_path / f"author-{number}" for number in range(6)]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / "environment.py").write_text(f"x = {number // 2}\n")  # each content by two people

    async def pushed(folder: Path) -> EnvironmentVersion:
        person = await connect(server.url, store, name="cli:1")
        try:
            return await publish_environment(person, folder, "sums")
        finally:
            await person.close(0)

    made = await asyncio.gather(*(pushed(folder) for folder in folders))

    found, newest = await versions(buses[0], "local/sums")
    assert {v.version for v in found} == {v.version for v in made}
    assert len(found) == 3
    assert newest in {v.version for v in found}
    for version, folder in zip(made, folders, strict=True):
        await fetch_environment(buses[0], version, tmp_path / "back" / version.digest)
        back = tmp_path / "back" / version.digest / "environment.py"
        assert back.read_text() == (folder / "environment.py").read_text()
    assert [stat.key async for stat in store.list("uploads/")] == []
    for bus in buses:
        await bus.close(0)
