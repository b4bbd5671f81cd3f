"""How fast runs have been, for whoever wants to know how long the next one will take."""

from collections.abc import Iterable
from dataclasses import dataclass

from flash.bus import Bus
from flash.client.asking import LISTED, runs
from flash.client.following import told_so_far
from flash.contracts.requests import RecordedEvent

NEWEST = 5
"""So many runs of a model are looked at until one tells."""


@dataclass(frozen=True)
class Speed:
    """Tokens that went through the learner in a second of a run, sampling and scoring included."""

    tokens_per_s: float
    run_id: str


async def measured(bus: Bus, model: str, algorithm: str) -> Speed | None:
    """That of the newest run of a model on this stack which has taken steps; None where there is none."""
    newest = (await runs(bus, most=LISTED)).runs
    alike = [run for run in newest if run.model == model and run.algorithm == algorithm and run.step > 0]
    for run in alike[:NEWEST]:
        if found := await speed_of(bus, run.run_id):
            return found
    return None


async def speed_of(bus: Bus, run_id: str) -> Speed | None:
    rate = tokens_per_s(await told_so_far(bus, run_id, nouns=["step"]))
    return Speed(rate, run_id) if rate else None


def tokens_per_s(events: Iterable[RecordedEvent]) -> float | None:
    """From the first step on that was told, to the last; None where fewer than two were, or nothing was learned."""
    told = [event for event in events if event.event.startswith("step.finished.")]
    took_s = told[-1].time - told[0].time if told else 0.0
    tokens = sum(event.body["metrics"].get("forward_tokens", 0.0) for event in told[1:])
    return tokens / took_s if tokens and took_s > 0 else None
