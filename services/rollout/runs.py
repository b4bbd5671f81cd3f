"""What a rollout service knows of runs: which are over, and the newest policy of each."""

from collections import OrderedDict
from typing import TypeVar

from flash.contracts.base import RunEvent
from flash.contracts.groups import GroupRequested
from flash.contracts.values import PolicyRef

REMEMBERED = 4_096
"""How many runs are kept in mind; of older ones the stream is asked again."""

V = TypeVar("V")

RunKey = tuple[str, str]
"""Organisation and run."""


class Runs:
    """Bounded: the run least lately heard of is forgotten first."""

    def __init__(self) -> None:
        self._over: OrderedDict[RunKey, int] = OrderedDict()
        """The newest attempt that is over; 0: none."""
        self._newest: OrderedDict[RunKey, PolicyRef] = OrderedDict()

    def is_over(self, run: RunKey, attempt: int) -> bool | None:
        """None: nobody has told us, and nobody has asked."""
        over = self._over.get(run)
        return None if over is None else attempt <= over

    def heard(self, run: RunKey, *, over: int) -> None:
        """Attempts up to `over` are; 0: none is."""
        _remember(self._over, run, max(over, self._over.get(run, 0)))

    def told(self, run: RunKey, policy: PolicyRef) -> None:
        """A newer policy of the run is out. Of one version the last told counts: a replay may have diverged."""
        known = self._newest.get(run)
        if known is None or policy.version >= known.version:
            _remember(self._newest, run, policy)

    def is_finished(self, request: GroupRequested) -> bool:
        """Its step is done, so the group was scored long ago, whoever still asks for it."""
        known = self._newest.get(run_key(request))
        return request.scope == "train" and known is not None and known.version >= request.step

    def policy_for(self, request: GroupRequested) -> PolicyRef:
        """The newest that is known, and never an older one than was asked for; in an evaluation exactly that one."""
        known = self._newest.get(run_key(request))
        if request.scope == "eval" or known is None or known.version < request.policy.version:
            return request.policy
        return known


def run_key(event: RunEvent) -> RunKey:
    return event.org, event.run_id


def _remember(memory: OrderedDict[RunKey, V], run: RunKey, value: V) -> None:
    memory[run] = value
    memory.move_to_end(run)
    while len(memory) > REMEMBERED:
        memory.popitem(last=False)
