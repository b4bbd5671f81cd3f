"""The `verifiers` dialect: what `import verifiers as vf` finds in an author's file where the real package is absent.

Names, defaults and rewards are those of its classic releases (up to 0.3.1). Different on purpose: a reward function
that raises, or gives what is no finite number, is an error of that rollout and never a 0; a metric of weight 0 never
touches the reward; a judge gets the question; metrics of one name are numbered; nothing installs signal handlers.
"""

from typing import Any

from envsdk.verifiers.clients import Client, ClientConfig
from envsdk.verifiers.environments import Environment, MultiTurnEnv, SingleTurnEnv
from envsdk.verifiers.errors import (
    EmptyModelResponseError,
    Error,
    InfraError,
    InvalidModelResponseError,
    JudgeError,
    ModelError,
    OverlongPromptError,
    RewardError,
    SandboxError,
    ToolCallError,
    ToolError,
    ToolParseError,
)
from envsdk.verifiers.groups import EnvGroup
from envsdk.verifiers.judge import JudgeRubric
from envsdk.verifiers.loading import load_environment
from envsdk.verifiers.marks import cleanup, setup, stop, teardown
from envsdk.verifiers.math import MathRubric, extract_boxed_answer, extract_hash_answer
from envsdk.verifiers.messages import (
    AssistantMessage,
    Message,
    Messages,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from envsdk.verifiers.parsers import MaybeThinkParser, Parser, ThinkParser, XMLParser
from envsdk.verifiers.rubrics import RewardFunc, Rubric, RubricGroup
from envsdk.verifiers.stateful import StatefulToolEnv
from envsdk.verifiers.states import State
from envsdk.verifiers.tools import ToolEnv

Info = SamplingArgs = dict[str, Any]

__all__ = [
    "AssistantMessage", "Client", "ClientConfig", "EmptyModelResponseError", "EnvGroup", "Environment", "Error",
    "Info", "InfraError", "InvalidModelResponseError", "JudgeError", "JudgeRubric", "MathRubric",
    "MaybeThinkParser", "Message", "Messages", "ModelError", "MultiTurnEnv", "OverlongPromptError", "Parser",
    "RewardError", "RewardFunc", "Rubric", "RubricGroup", "SamplingArgs", "SandboxError", "SingleTurnEnv", "State",
    "StatefulToolEnv", "SystemMessage", "ThinkParser", "ToolCall", "ToolCallError", "ToolEnv", "ToolError",
    "ToolMessage", "ToolParseError", "UserMessage", "XMLParser", "cleanup", "extract_boxed_answer",
    "extract_hash_answer", "load_environment", "setup", "stop", "teardown",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(
        f"envsdk.verifiers has no {name}. For what only the real package has, name `verifiers<0.4` in the run's "
        "`[environment] pip`; this dialect has " + ", ".join(__all__)
    )
