"""The suites of `evaluations.py` as a split: their cases are its rows, and each suite scores its own.

`suites` is all of them together, and the name of a suite is that suite alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from envsdk.environments import EnvironmentSingleTurn
from envsdk.episodes import RewardMetric, RewardResult
from envsdk.evaluations import EvalSuite, checked_suites
from envsdk.examples import Message, TaskExample, task_example_from_record
from envsdk.loading import find_factory, named_params
from envsdk.splits import SUITES, USUAL_SPLITS, has_suites, split_file


def suites_of(folder: Path, params: Mapping[str, Any], split: str) -> list[EvalSuite]:
    """The suites that a split means, none if it means none. `load_evaluations` gets the params that it names."""
    usual = split in USUAL_SPLITS or split_file(folder, split) is not None
    if not has_suites(folder) or (usual and split != SUITES):
        return []
    factory, origin = find_factory(folder / "evaluations.py", "load_evaluations")
    suites = checked_suites(factory(**named_params(factory, params)), origin)
    return [suite for suite in suites if split in (SUITES, suite.name)]


class Suites(EnvironmentSingleTurn):
    """An environment as its suites use it: it asks their cases, and they score the answers."""

    def __init__(self, environment: Any, suites: Sequence[EvalSuite]) -> None:
        self.author = getattr(environment, "author", environment)
        self._environment = environment
        self._cases = [(suite, case) for suite in suites for case in suite.cases()]
        self._examples = [task_example_from_record(case, index) for index, (_, case) in enumerate(self._cases)]
        self.max_score_concurrency = getattr(environment, "max_score_concurrency", 32)
        vars(self)["isolation"] = getattr(environment, "isolation", "group")

    def split_rows(self, split: str) -> list[TaskExample]:
        return self._examples

    def build_prompt_messages(self, example: TaskExample, prompt_text: str) -> list[Message]:
        return self.start_episode(example, prompt_text)

    def start_episode(self, example: TaskExample, prompt_text: str) -> list[Message]:
        opening: list[Message] = self._environment.start_episode(example, prompt_text)
        return opening

    def sft_completion(self, example: TaskExample) -> list[Message]:
        gold: list[Message] = self._environment.sft_completion(example)
        return gold

    def score_response(self, example: TaskExample, response_text: str) -> RewardResult:
        """What the suite says of its own case, and the score once more under the suite's name."""
        suite, case = self._cases[int((example.id or "").rpartition("_")[2])]
        result: Any = suite.score(case, response_text)
        if type(result) in (int, float, bool):
            result = RewardResult(score=result)
        if hasattr(result, "metrics"):  # else it is none, and refused by whoever asked
            own = RewardMetric(suite.name, score=result.score, success=result.resolved_success())
            result = replace(result, metrics=(*result.metrics, own))
        return cast("RewardResult", result)
