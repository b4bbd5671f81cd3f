"""What becomes of versions once they are published: services/hub/service.py."""

from typing import Any

import pytest

from flash.bus.memory import MemoryBus
from flash.contracts.environments import (
    EnvironmentDelete,
    EnvironmentRollback,
    EnvironmentShow,
    EnvironmentStory,
    EnvironmentUse,
    EnvironmentWithdraw,
    EnvironmentWithdrawn,
)
from flash.contracts.runs import RunCancelled, RunCompleted, RunDeleted, RunFailed, RunResumed
from flash.contracts.steps import StepSaved
from flash.contracts.values import PolicyRef
from flash.errors import NotFound, Refused
from tests.hubs import ARCHIVE, Clock, keys, later, meant, push, run_of, scorer

DELETE = EnvironmentDelete(org="local", environment="sums")


async def test_a_rollback_lets_the_bare_id_mean_what_it_meant_before(bus: MemoryBus, clock: Clock) -> None:
    await scorer(bus)
    a, b = [await later(bus, clock, text) for text in (b"aa", b"bb")]
    a_again = await later(bus, clock, b"aa")
    assert await meant(bus) == a_again.version == a.version

    assert (await bus.ask(EnvironmentRollback(org="local", environment="sums"))).version == b.version
    assert await meant(bus) == b.version
    assert (await bus.ask(EnvironmentRollback(org="local", environment="sums"))).version == a.version
    await bus.ask(EnvironmentRollback(org="local", environment="sums", version=b.version))
    assert await meant(bus) == b.version
    assert await meant(bus, f"local/sums@{a.version}") == a.version


async def test_a_rollback_with_nothing_to_go_back_to_is_refused(bus: MemoryBus) -> None:
    await scorer(bus)
    await push(bus)

    with pytest.raises(Refused, match="local/sums has no other version that can be used"):
        await bus.ask(EnvironmentRollback(org="local", environment="sums"))
    with pytest.raises(NotFound, match="local/sums has no version abc; the newest are"):
        await bus.ask(EnvironmentRollback(org="local", environment="sums", version="abc"))


async def test_a_withdrawn_version_is_refused_by_name_and_its_archive_is_gone(bus: MemoryBus, clock: Clock) -> None:
    await scorer(bus)
    a, b = [await later(bus, clock, text) for text in (b"aa", b"bb")]

    gone = await bus.ask(EnvironmentWithdraw(org="local", environment="sums", version=b.version))
    again = await bus.ask(EnvironmentWithdraw(org="local", environment="sums", version=b.version))

    assert gone == again
    assert gone.withdrawn_at == clock.now
    with pytest.raises(NotFound, match=f"local/sums@{b.version} was withdrawn: `flash env versions local/sums` lists"):
        await meant(bus, f"local/sums@{b.version}")
    assert await meant(bus) == a.version
    assert await keys(bus, "environments/") == [a.key]
    assert (await bus.ask(EnvironmentShow(reference=f"local/sums@{b.version}"))).version.withdrawn_at
    told = await bus.last(EnvironmentWithdrawn.pattern())
    assert told is not None
    assert told.event == EnvironmentWithdrawn(
        org="local", slug="sums", environment="sums", version=b.version, digest=b.digest
    )


async def test_with_every_version_withdrawn_the_bare_id_says_so_until_one_is_pushed_again(bus: MemoryBus) -> None:
    await scorer(bus)
    version = await push(bus)
    await bus.ask(EnvironmentWithdraw(org="local", environment="sums", version=version.version))

    with pytest.raises(NotFound, match="every version of local/sums was withdrawn: push it again"):
        await meant(bus)
    await push(bus)

    assert await meant(bus) == version.version
    assert await bus.store.get(version.key) == ARCHIVE


async def test_a_version_that_a_live_run_pins_is_not_withdrawn_until_the_run_is_over(bus: MemoryBus) -> None:
    await scorer(bus)
    version = await push(bus)
    await bus.publish(run_of(version, "r1"), run_of(version, "r2", org="other"))

    for ask in (EnvironmentWithdraw(org="local", environment="sums", version=version.version), DELETE):
        with pytest.raises(
            Refused, match="is in use by r1 and 1 more, which is not over: wait for it, or `flash cancel"
        ):
            await bus.ask(ask)
    await bus.publish(RunFailed(org="local", run_id="r1", reason="no"))
    with pytest.raises(Refused, match="in use by a run of another organisation, which is not over: wait for it"):
        await bus.ask(DELETE)
    assert await meant(bus) == version.version
    await bus.publish(RunCancelled(org="other", run_id="r2"))

    await bus.ask(DELETE)

    with pytest.raises(NotFound, match="there is no environment local/sums"):
        await meant(bus)
    assert await keys(bus, "") == []
    assert await bus.records("versions").all() == await bus.records("environments").all() == {}


async def test_a_run_that_was_resumed_pins_its_version_again(bus: MemoryBus) -> None:
    await scorer(bus)
    version = await push(bus)
    await bus.publish(run_of(version, "r1"), RunFailed(org="local", run_id="r1", reason="no"))
    await bus.publish(RunResumed(org="local", run_id="r1", attempt=2, resumed_at=2.0))

    with pytest.raises(Refused, match="in use by r1, which is not over"):
        await bus.ask(DELETE)


async def test_a_run_that_is_submitted_while_its_version_is_withdrawn_keeps_it(bus: MemoryBus) -> None:
    await scorer(bus)
    version = await push(bus)
    records = bus.records("versions")
    update = records.update

    async def meanwhile(id: str, fn: Any) -> bytes | None:
        await bus.publish(run_of(version, "r1"))
        return await update(id, fn)

    records.update = meanwhile  # type: ignore[method-assign]
    with pytest.raises(Refused, match="in use by r1"):
        await bus.ask(EnvironmentWithdraw(org="local", environment="sums", version=version.version))

    assert await meant(bus) == version.version
    assert await bus.store.get(version.key) == ARCHIVE


async def test_a_version_is_shown_with_the_runs_and_checkpoints_that_came_of_it(bus: MemoryBus) -> None:
    await scorer(bus)
    version, other = await push(bus), await push(bus, b"other" * 10)
    policy = PolicyRef(version=2, key="k", digest="d")
    await bus.publish(run_of(version, "r1", at=1.0), run_of(other, "r2", at=2.0), run_of(version, "r3", at=3.0))
    for step in (4, 2):
        await bus.publish(StepSaved(org="local", run_id="r1", attempt=1, step=step, key="k", policy=policy))
    await bus.publish(RunCompleted(org="local", run_id="r1"))

    story = await bus.ask(EnvironmentShow(reference=f"local/sums@{version.version}"))

    assert story == EnvironmentStory(
        version=version,
        is_newest=False,
        uses=[
            EnvironmentUse(run_id="r3", state="live", submitted_at=3.0),
            EnvironmentUse(run_id="r1", state="done", submitted_at=1.0, checkpoints=[2, 4]),
        ],
        num_uses=2,
    )
    assert (await bus.ask(EnvironmentShow(reference="local/sums"))).is_newest
    await bus.publish(RunDeleted(org="local", run_id="r1"))
    found = await bus.ask(EnvironmentShow(reference=f"local/sums@{version.version}"))
    assert [use.run_id for use in found.uses] == ["r3"], "a run that was deleted is nowhere"


async def test_what_is_not_there_is_met_with_what_is(bus: MemoryBus) -> None:
    await scorer(bus)
    version = await push(bus)

    with pytest.raises(NotFound, match=f"local/sums has no version 123; the newest are {version.version}"):
        await meant(bus, "local/sums@123")
    with pytest.raises(NotFound, match=r"there is no environment local/sum: did you mean local/sums\?"):
        await meant(bus, "local/sum")
    with pytest.raises(NotFound, match="there is no environment other/sums: `flash env push --name sums` makes one"):
        await meant(bus, "other/sums")
