"""References to weights: a checkpoint of a run, or the name of a base model."""

from dataclasses import dataclass
from typing import Any

import msgspec

from flash.bus import Bus
from flash.client.view import RunView, Save, view
from flash.config.references import checkpoint, hint
from flash.contracts.base import Token
from flash.contracts.values import PolicyRef
from flash.errors import NotFound
from flash.models import card, pool_of


@dataclass(frozen=True)
class Reference:
    """Weights that can be sampled from, evaluated, or trained on."""

    text: str
    """The short form: a base model, or `RUN/step-N`."""
    model: str
    policy: PolicyRef
    thinking: bool = False
    """As the run was trained."""
    lora_rank: int = 0
    lora_alpha: int = 0
    """0: there is no adapter."""
    note: str = ""
    """What should be said aloud about the choice."""

    @property
    def pool(self) -> Token:
        return pool_of(self.model)


async def resolve_reference(bus: Bus, text: str) -> Reference:
    """What a reference means now. `RUN` is its final adapter, and while it is not done its newest saved step.

    Raises NotFound for a run, a step or a model that is not there.
    """
    found = checkpoint(text)
    if found is None:
        return _base_model(text)
    return chosen(await view(bus, found.run_id), found.place)


def chosen(run: RunView, place: str) -> Reference:
    """The checkpoint of a run at `final`, at `step-N`, or, with an empty `place`, the best there is."""
    final = next((save for save in run.saves if save.final), None)
    if place == "final":
        if final is None:
            raise NotFound(f"{run.run_id} is {run.state} and has no final adapter{_saved(run)}")
        return _reference(run, final)
    if place:
        step = int(place.removeprefix("step-"))
        save = next((save for save in run.saves if save.step == step), None)
        if save is None:
            raise NotFound(f"{run.run_id} has no checkpoint {place}{_saved(run)}")
        return _reference(run, save)
    if final:
        return _reference(run, final)
    if not run.saves:
        raise NotFound(f"{run.run_id} is {run.state} and has saved nothing yet: `flash status {run.run_id}`")
    newest = run.saves[-1]
    return _reference(run, newest, note=f"{run.run_id} is {run.state}: using its newest save, step {newest.step}")


def _reference(run: RunView, save: Save, note: str = "") -> Reference:
    train: dict[str, Any] = run.spec.get("train") or {}
    return Reference(
        text=f"{run.run_id}/step-{save.step}",
        model=run.spec["model"],
        policy=msgspec.convert(save.policy, PolicyRef),
        thinking=run.spec.get("thinking", False),
        lora_rank=train.get("lora_rank", 0),
        lora_alpha=train.get("lora_alpha", 0),
        note=note,
    )


def _saved(run: RunView) -> str:
    return f"; it has {', '.join(f'step-{save.step}' for save in run.saves)}" if run.saves else "; it saved nothing yet"


def _base_model(text: str) -> Reference:
    if "flash-" in text:
        raise NotFound(f"{text!r} is no reference: {hint(text)}")
    return Reference(text=text, model=card(text).name, policy=PolicyRef())
