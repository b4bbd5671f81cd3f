"""A run as its facts tell it: flash/client/view.py."""

from typing import Any

import pytest

from flash.bus.memory import MemoryBus
from flash.client.view import RunView, folded, view
from flash.contracts.requests import RecordedEvent
from flash.errors import NotFound

RUN = "flash-1700000000-0000abcd"

SPEC = {"model": "tiny", "algorithm": "grpo", "train": {"lora_rank": 8, "lora_alpha": 16}}
POLICY = {"version": 2, "key": "k", "digest": "d"}


def event(name: str, sequence: int = 1, **body: Any) -> RecordedEvent:
    return RecordedEvent(
        sequence=sequence, time=1000.0 + sequence, subject="", caused_by="", event=name.replace("_", ".", 1) + ".v1",
        body={"org": "local", "run_id": RUN, **body},
    )  # fmt: skip


def seen(*events: Any) -> RunView:
    return folded(RunView(RUN), events)


def submitted(**spec: Any) -> Any:
    return event("run_submitted", spec={**SPEC, **spec}, submitted_at=5.0)


def finished(step: int, *, rollouts: int = 8, faults: int = 0, samples: Any = (), **metrics: float) -> Any:
    return event(
        "step_finished", step=step, metrics=metrics, rollouts=rollouts, faults=faults, fault_samples=list(samples)
    )


def fault(message: str) -> dict[str, str]:
    return {"kind": "raised", "message": message, "traceback": "line 3"}


def test_a_new_run_is_queued_and_waits_for_its_dataset() -> None:
    found = seen(submitted())

    assert (found.state, found.waiting_for, found.submitted_at) == ("queued", "its turn", 5.0)


def test_a_run_goes_from_queued_over_planning_and_running_to_done() -> None:
    steps = [
        submitted(), event("dataset_requested", chunk=0), event("run_planned", rows=9, steps=2, prompts_per_step=3),
        event("run_started", pool="tiny", attempt=1), event("step_claimed", attempt=1, learner="l"), finished(0),
        finished(1, reward=0.25), finished(2, reward=0.5, kl=0.1),
        event("step_saved", step=2, policy=POLICY, final=True), event("run_completed", sequence=99, metrics={}),
    ]  # fmt: skip

    states = [folded(RunView(RUN), steps[: i + 1]).state for i in range(len(steps))]
    found = seen(*steps)

    assert states == ["queued", *["planning"] * 3, *["running"] * 5, "done"]
    assert (found.step, found.steps, found.rows, found.rollouts) == (2, 2, 9, 16)
    assert found.metrics == {"reward": 0.5, "kl": 0.1}
    assert found.rewards == (0.25, 0.5)
    assert (found.checkpoint, found.ended_at, found.is_over) == (f"{RUN}/step-2", 1099.0, True)


def test_a_started_run_waits_for_a_learner_until_one_claims_it() -> None:
    started = [submitted(), event("run_started", pool="tiny", attempt=1)]

    assert seen(*started).waiting_for == "a learner of pool tiny"
    assert seen(*started, event("step_claimed", attempt=1, learner="l")).waiting_for == ""


def test_why_a_run_changed_hands_is_kept() -> None:
    assert seen(submitted(), event("run_retried", claim=2, step=0, reason="power cut")).retries == ("power cut",)


def test_a_resumed_run_is_queued_again_without_its_reason() -> None:
    failed = [submitted(), event("run_failed", attempt=1, reason="no", fault=None)]

    again = seen(*failed, event("run_resumed", attempt=2, resumed_at=9.0))

    assert seen(*failed).reason == "no"
    assert (again.state, again.attempt, again.reason, again.ended_at) == ("queued", 2, "", 0.0)


def test_faults_are_counted_and_three_different_ones_are_kept() -> None:
    found = seen(
        submitted(),
        finished(1, faults=2, samples=[fault("a"), fault("b")]),
        finished(2, faults=3, samples=[fault("a"), fault("c"), fault("d")]),
    )

    assert (found.faults, found.rollouts) == (5, 16)
    assert [sample["message"] for sample in found.fault_samples] == ["a", "b", "c"]


def test_a_failed_run_has_its_reason_and_its_fault() -> None:
    found = seen(submitted(), event("run_failed", reason="too many faults", fault=fault("boom")))

    assert (found.state, found.reason) == ("failed", "too many faults")
    assert found.fault_samples[0]["traceback"] == "line 3"


def test_a_dataset_that_fails_shows_the_authors_fault() -> None:
    found = seen(submitted(), event("dataset_failed", chunk=0, fault=fault("no rows")))

    assert found.fault_samples[0]["message"] == "no rows"


def test_an_evaluation_counts_its_scored_groups_and_their_faults() -> None:
    group = event("group_scored", scope="eval", verdicts=[{"reward": 1.0, "fault": None}, {"fault": fault("boom")}])

    found = seen(submitted(algorithm="eval"), group, event("run_completed", metrics={"reward": 1.0}))

    assert (found.step, found.rollouts, found.faults) == (1, 2, 1)
    assert found.metrics == {"reward": 1.0}


def test_a_save_told_again_is_one_save() -> None:
    save = event("step_saved", step=2, policy=POLICY, final=False)

    assert len(seen(submitted(), save, save).saves) == 1


def test_facts_of_a_newer_flash_are_passed_over() -> None:
    assert seen(submitted(), event("run_dreamt", of="sheep")).state == "queued"


async def test_a_run_is_read_through_the_recorder(bus: MemoryBus, recorder: Any) -> None:
    recorder.say("run_submitted", spec=SPEC, submitted_at=5.0)
    recorder.say("run_planned", rows=9, steps=2)

    assert (await view(bus, RUN)).state == "planning"


async def test_an_evaluation_is_read_with_its_groups(bus: MemoryBus, recorder: Any) -> None:
    recorder.say("run_submitted", spec={**SPEC, "algorithm": "eval"}, submitted_at=5.0)
    recorder.say("group_scored", scope="eval", verdicts=[{"fault": fault("boom")}])
    recorder.say("run_completed", metrics={"reward": 0.0})

    found = await view(bus, RUN)

    assert (found.state, found.step, found.faults) == ("done", 1, 1)


async def test_a_run_that_nobody_spoke_of_is_not_found(bus: MemoryBus, recorder: Any) -> None:
    with pytest.raises(NotFound, match=f"there is no run {RUN}: `flash runs` lists them"):
        await view(bus, RUN)
