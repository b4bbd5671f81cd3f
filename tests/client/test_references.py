"""References to weights: flash/client/references.py and flash/config/references.py."""

from typing import Any

import pytest

from flash.bus.memory import MemoryBus
from flash.client.references import Reference, chosen, resolve_reference
from flash.client.view import RunView, Save
from flash.config.references import Checkpoint, checkpoint, hint
from flash.contracts.values import PolicyRef
from flash.errors import NotFound

RUN = "flash-1700000000-0000abcd"

SPEC = {"model": "tiny", "thinking": True, "train": {"lora_rank": 8, "lora_alpha": 16}}


def save(step: int, *, final: bool = False) -> Save:
    return Save(step=step, policy={"version": step, "key": f"k{step}", "digest": f"d{step}"}, final=final)


def run(*saves: Save, state: str = "running") -> RunView:
    return RunView(RUN, state=state, spec=SPEC, saves=saves)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (RUN, Checkpoint(RUN, "")),
        (f"{RUN}/final", Checkpoint(RUN, "final")),
        (f"{RUN}/step-12", Checkpoint(RUN, "step-12")),
        (f"{RUN}/step-", None),
        (f"runs/{RUN}/checkpoints/step-4", None),
        ("tiny", None),
    ],
)
def test_a_checkpoint_is_a_run_its_end_or_one_of_its_steps(text: str, found: Checkpoint | None) -> None:
    assert checkpoint(text) == found


def test_a_longer_reference_is_answered_with_the_short_form() -> None:
    assert hint(f"runs/{RUN}/checkpoints/step-4") == f"write {RUN}/step-4"
    assert hint(f"runs/{RUN}/adapters") == f"write {RUN}, {RUN}/final or {RUN}/step-N"
    assert hint("nonsense") == "write RUN, RUN/final or RUN/step-N"


def test_a_run_that_is_done_means_its_final_adapter() -> None:
    found = chosen(run(save(2), save(4, final=True), state="done"), "")

    assert found == Reference(
        text=f"{RUN}/step-4", model="tiny", policy=PolicyRef(version=4, key="k4", digest="d4"), thinking=True,
        lora_rank=8, lora_alpha=16,
    )  # fmt: skip


def test_a_run_that_is_not_done_means_its_newest_save_and_says_so() -> None:
    found = chosen(run(save(2), save(4)), "")

    assert found.text == f"{RUN}/step-4"
    assert found.note == f"{RUN} is running: using its newest save, step 4"


def test_a_step_may_be_asked_for_by_number() -> None:
    assert chosen(run(save(2), save(4, final=True)), "step-2").policy.digest == "d2"


def test_what_is_not_there_is_met_with_what_is() -> None:
    with pytest.raises(NotFound, match=f"{RUN} has no checkpoint step-3; it has step-2, step-4"):
        chosen(run(save(2), save(4)), "step-3")
    with pytest.raises(NotFound, match=f"{RUN} is running and has no final adapter; it has step-2"):
        chosen(run(save(2)), "final")
    with pytest.raises(NotFound, match=f"{RUN} is queued and has saved nothing yet"):
        chosen(run(state="queued"), "")


async def test_a_base_model_stands_for_itself(bus: MemoryBus) -> None:
    found = await resolve_reference(bus, "tiny")

    assert found == Reference(text="tiny", model="tiny", policy=PolicyRef())
    assert found.pool == "tiny"


async def test_a_name_that_is_neither_is_answered_with_what_it_may_have_meant(bus: MemoryBus) -> None:
    with pytest.raises(NotFound, match="did you mean 'tiny'"):
        await resolve_reference(bus, "tinny")
    with pytest.raises(NotFound, match=f"is no reference: write {RUN}/step-4"):
        await resolve_reference(bus, f"runs/{RUN}/checkpoints/step-4")


async def test_a_run_is_looked_up_in_what_was_said_about_it(bus: MemoryBus, recorder: Any) -> None:
    recorder.say("run_submitted", spec=SPEC, submitted_at=1.0)
    recorder.say("step_saved", step=4, policy={"version": 4, "key": "k4", "digest": "d4"}, final=True)

    assert (await resolve_reference(bus, f"{RUN}/final")).policy == PolicyRef(version=4, key="k4", digest="d4")
