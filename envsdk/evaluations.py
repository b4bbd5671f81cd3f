"""Evaluations: cases to answer, and a score for each."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envsdk.episodes import RewardResult
from envsdk.examples import TaskExample, task_example_from_record
from envsdk.loading import accepted_params, find_factory

if TYPE_CHECKING:
    from envsdk.environments import EnvironmentSingleTurn


class EvalSuite(ABC):
    """A named set of cases."""

    name: str

    @abstractmethod
    def cases(self) -> Iterable[TaskExample]: ...

    @abstractmethod
    def score(self, case: TaskExample, text: str) -> RewardResult: ...


class EnvironmentEvalSuite(EvalSuite):
    """A single-turn environment over cases of its own."""

    def __init__(self, env: "EnvironmentSingleTurn", cases: Iterable[Any], name: str | None = None) -> None:
        from envsdk.environments import EnvironmentSingleTurn

        if not isinstance(env, EnvironmentSingleTurn):
            raise TypeError(f"the suite's environment is a {type(env).__name__}, wanted an EnvironmentSingleTurn")
        self.env = env
        self.name = name or type(env).__name__
        self._cases: Sequence[TaskExample] = tuple(
            case if isinstance(case, TaskExample) else task_example_from_record(case, index)
            for index, case in enumerate(cases)
        )

    def cases(self) -> Sequence[TaskExample]:
        return self._cases

    def score(self, case: TaskExample, text: str) -> RewardResult:
        return self.env.score_responses(case, [text])[0]


def load_evaluation_suites(reference: str | Path | None = None, **params: Any) -> list[EvalSuite]:
    """What `load_evaluations(**params)` of `evaluations.py` gives. Raises as load_environment does."""
    from envsdk import dialects

    dialects.install()
    place = Path(reference) / "evaluations.py" if reference and Path(reference).is_dir() else reference
    factory, origin = find_factory(place or "evaluations.py", "load_evaluations")
    return checked_suites(factory(**accepted_params(factory, params, origin)), origin)


def checked_suites(suites: Any, origin: str) -> list[EvalSuite]:
    """Suites of ours, or of the real package's; one alone is a list of one. Raises TypeError for anything else."""
    found = [suites] if _is_suite(suites) else suites
    if isinstance(found, str | bytes) or not isinstance(found, Iterable):
        raise TypeError(f"{origin} gave a {type(suites).__name__}, wanted a list of EvalSuite")
    listed = list(found)
    if odd := next((suite for suite in listed if not _is_suite(suite)), None):
        raise TypeError(f"{origin} gave a list with a {type(odd).__name__}, wanted a list of EvalSuite")
    return listed


def _is_suite(value: Any) -> bool:
    return isinstance(value, EvalSuite) or any(kind.__name__ == "EvalSuite" for kind in type(value).__mro__)
