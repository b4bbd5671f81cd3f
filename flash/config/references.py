"""How people name a checkpoint: `RUN`, `RUN/final` or `RUN/step-N`. Pure."""

import re
from dataclasses import dataclass

_RUN = r"flash-\d+-[0-9a-f]{8}"
_CHECKPOINT = re.compile(rf"(?P<run>{_RUN})(/(?P<place>final|step-\d+))?")


@dataclass(frozen=True)
class Checkpoint:
    """A saved step of a run."""

    run_id: str
    place: str
    """`final`, `step-N`, or empty: the best there is."""


def checkpoint(text: str) -> Checkpoint | None:
    """The checkpoint that a text names; None where it names none."""
    found = _CHECKPOINT.fullmatch(text)
    return Checkpoint(found["run"], found["place"] or "") if found else None


def hint(text: str) -> str:
    """What to write instead of a text that names no checkpoint."""
    inside = re.search(_RUN, text)
    run = inside.group() if inside else "RUN"
    step = re.search(r"step-\d+", text)
    return f"write {run}/{step.group()}" if inside and step else f"write {run}, {run}/final or {run}/step-N"
