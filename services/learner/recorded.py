"""What the stream already knows of a run's steps. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise, starmap

from flash.contracts.base import Event
from flash.contracts.steps import StepClaimed, StepDiverged, StepFinished, StepSaved
from flash.contracts.values import PolicyRef


@dataclass(frozen=True)
class Recorded:
    """Complete once our own claim is told: nobody else can speak about the run's steps from then on."""

    finished: dict[int, StepFinished] = field(default_factory=dict)
    policies: dict[int, PolicyRef] = field(default_factory=dict)
    """After each step, as last told: a replay on a GPU may have given another than the first time."""
    saved: dict[int, StepSaved] = field(default_factory=dict)
    memory_losses: int = 0
    """How often the kernel seems to have killed the learner that had the run, for want of memory."""

    @classmethod
    def of(cls, events: Iterable[Event]) -> "Recorded":
        """The events in the order of the stream."""
        recorded = cls()
        claims: list[StepClaimed] = []
        for event in events:
            match event:
                case StepClaimed():
                    claims.append(event)
                case StepFinished():
                    recorded.finished[event.step] = event
                    recorded.policies[event.step] = event.policy
                case StepDiverged():
                    recorded.policies[event.step] = event.policy
                case StepSaved():
                    recorded.saved[event.step] = event
        return replace(recorded, memory_losses=sum(starmap(lost_to_memory, pairwise(claims))))


def lost_to_memory(before: StepClaimed, claimed: StepClaimed) -> bool:
    """Somebody was killed on the machine that both were on, because its memory was full."""
    return before.machine == claimed.machine != "" and claimed.memory_kills > before.memory_kills
