"""Checkpoints are whole or not there, and the newest always arrives."""

import asyncio
from typing import Any

from flash.contracts.values import PolicyRef
from flash.store.memory import MemoryStore
from services.learner import checkpoints
from services.learner.checkpoints import Save, Saver


def save_of(step: int, **changed: Any) -> Save:
    given: dict[str, Any] = {
        "run_id": "run",
        "step": step,
        "policy": PolicyRef(version=step, digest=f"d{step}"),
        "model": "m",
        "seed": 1,
        "files": {"adapter_model.safetensors": b"weights", "state.safetensors": b"state"},
    }
    return Save(**given | changed)


async def test_a_checkpoint_that_was_written_is_read() -> None:
    store = MemoryStore()
    await checkpoints.write(store, save_of(3))

    found = await checkpoints.read(store, "runs/run/checkpoints/step-3")

    assert found is not None
    manifest, files = found
    assert files == save_of(3).files
    assert (manifest.step, manifest.policy.digest) == (3, "d3")


async def test_a_folder_without_its_manifest_is_no_checkpoint() -> None:
    store = MemoryStore()
    await checkpoints.write(store, save_of(3))
    await store.delete("runs/run/checkpoints/step-3/manifest.json")

    assert await checkpoints.read(store, "runs/run/checkpoints/step-3") is None


async def test_a_checkpoint_with_a_file_of_another_is_refused() -> None:
    store = MemoryStore()
    await checkpoints.write(store, save_of(3))
    await store.put("runs/run/checkpoints/step-3/state.safetensors", b"another")

    assert await checkpoints.read(store, "runs/run/checkpoints/step-3") is None


async def test_one_upload_is_in_flight_and_the_newest_of_the_waiting_wins() -> None:
    gate, begun = asyncio.Event(), []

    async def upload(save: Save) -> None:
        begun.append(save.step)
        await gate.wait()

    saver = Saver(upload)
    saver.offer(save_of(1))
    await asyncio.sleep(0)
    for step in (2, 3, 4):
        saver.offer(save_of(step))
    assert begun == [1]
    assert saver.arrived() == []
    gate.set()

    assert [save.step for save in await saver.flush()] == [1, 4]
    assert begun == [1, 4]


async def test_a_save_after_a_quiet_time_is_uploaded_too() -> None:
    async def upload(save: Save) -> None:
        await asyncio.sleep(0)

    saver = Saver(upload)
    saver.offer(save_of(1))
    assert [save.step for save in await saver.flush()] == [1]
    saver.offer(save_of(2))

    assert [save.step for save in await saver.flush()] == [2]


def test_a_save_is_due_every_so_often_and_at_the_last() -> None:
    assert [step for step in range(1, 8) if checkpoints.is_due(step, save_every=3, steps=7)] == [3, 6, 7]
