"""What every service does alike, on a real one."""

import asyncio
import os
import sys
from pathlib import Path

from flash.bus.server import NatsServer


async def test_a_service_shows_that_it_is_well_while_its_bus_answers_and_leaves_also_without_one(
    server: NatsServer, tmp_path: Path
) -> None:
    health = tmp_path / "healthy"
    told = {
        "FLASH_NATS_URL": server.url, "FLASH_STORE_URL": f"file://{tmp_path}/store", "FLASH_HEALTH_FILE": str(health),
        "FLASH_HOME": str(tmp_path),
    }  # fmt: skip
    hub = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "services.hub", env=os.environ | told, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await until_there(health)
        await server.kill()
        await asyncio.sleep(0.2)
        health.unlink()
        await asyncio.sleep(1.5)  # longer than from one look to the next
        assert not health.exists()
        await server.start()
        await until_there(health)

        await server.kill()
        hub.terminate()
        async with asyncio.timeout(15):
            assert await hub.wait() == 0
        assert not health.exists()
    finally:
        if hub.returncode is None:
            hub.kill()
            await hub.wait()


LOADING = """
import asyncio, time
from flash import process
from flash.config.settings import ServiceSettings

process.LAST_S = 0.3

async def serve(part, settings):
    print("loading", flush=True)
    await asyncio.to_thread(time.sleep, 600)

process.main("loading", ServiceSettings, serve)
"""


async def test_a_service_that_is_only_starting_leaves_when_it_is_told(server: NatsServer, tmp_path: Path) -> None:
    told = {
        "FLASH_NATS_URL": server.url, "FLASH_STORE_URL": f"file://{tmp_path}/store", "FLASH_HOME": str(tmp_path),
        "FLASH_GRACE_S": "0",
    }  # fmt: skip
    service = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", LOADING, env=os.environ | told, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert service.stdout
        assert service.stderr
        assert await service.stdout.readline() == b"loading\n"

        service.terminate()
        async with asyncio.timeout(10):
            said = await service.stderr.read()

        assert await service.wait() == 0
        assert b"service.cut-short" in said
    finally:
        if service.returncode is None:
            service.kill()
            await service.wait()


async def until_there(path: Path) -> None:
    for _ in range(400):
        if await asyncio.to_thread(path.exists):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{path} does not come")
