"""What authors of environments import. Standard library only."""

from envsdk.datasets import Dataset, PromptBuilder, load_dataset
from envsdk.environments import (
    Environment,
    EnvironmentMultiTurn,
    EnvironmentSingleTurn,
)
from envsdk.episodes import (
    EnvironmentEpisode,
    EnvironmentStepResult,
    EnvironmentTurn,
    RewardMetric,
    RewardResult,
)
from envsdk.evaluations import EnvironmentEvalSuite, EvalSuite, load_evaluation_suites
from envsdk.examples import (
    TaskExample,
    normalize_record,
    stable_example_id,
    target_messages,
    task_example_from_record,
    warn_missing_think_tags,
)
from envsdk.loading import load_environment
from envsdk.records import load_records, load_task_examples

__all__ = [
    "Dataset", "Environment", "EnvironmentEpisode", "EnvironmentEvalSuite", "EnvironmentMultiTurn",
    "EnvironmentSingleTurn", "EnvironmentStepResult", "EnvironmentTurn", "EvalSuite", "PromptBuilder", "RewardMetric",
    "RewardResult", "TaskExample", "load_dataset", "load_environment", "load_evaluation_suites", "load_records",
    "load_task_examples", "normalize_record", "stable_example_id", "target_messages", "task_example_from_record",
    "warn_missing_think_tags",
]  # fmt: skip
