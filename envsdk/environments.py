"""What an author subclasses: how the policy is asked, and what its answers earn."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

from envsdk.episodes import (
    EnvironmentEpisode,
    EnvironmentStepResult,
    EnvironmentTurn,
    RewardMetric,
    RewardResult,
)
from envsdk.evaluations import EnvironmentEvalSuite, EvalSuite, load_evaluation_suites
from envsdk.examples import Message, TaskExample, target_messages
from envsdk.loading import load_environment

__all__ = [
    "Environment", "EnvironmentEpisode", "EnvironmentEvalSuite", "EnvironmentMultiTurn", "EnvironmentSingleTurn",
    "EnvironmentStepResult", "EnvironmentTurn", "EvalSuite", "RewardMetric", "RewardResult", "load_environment",
    "load_evaluation_suites",
]  # fmt: skip

T = TypeVar("T")


class Environment(ABC):
    """A task: what the policy is shown, and what its answers earn.

    Give it rows by an attribute `dataset` (a Dataset, a list of rows, a file), or lay them in `dataset/train.jsonl`.
    """

    max_score_concurrency: int = 32
    """How many answers may be scored at once, in threads. 1: one by one, on the main thread; so are quick ones."""
    isolation: ClassVar[Literal["group", "call"]] = "group"
    """`call`: each answer is scored in a process of its own, for environments that run what the policy wrote."""

    @abstractmethod
    def build_prompt_messages(self, example: TaskExample, prompt_text: str) -> list[Message]:
        """The messages that the policy answers."""

    def start_episode(self, example: TaskExample, prompt_text: str) -> list[Message]:
        """The prompt messages, after the run's prompt text as system message unless they have one of their own."""
        return with_system_text(self.build_prompt_messages(example, prompt_text), prompt_text)

    def max_episode_turns(self, example: TaskExample) -> int:
        return 1

    def step_episode(
        self, example: TaskExample, messages: Sequence[Message], assistant_response: str
    ) -> EnvironmentStepResult:
        """What follows the policy's turn, which is the last of `messages`."""
        return EnvironmentStepResult(
            done=True, final_response_text=self.normalize_response_text(example, assistant_response)
        )

    def extract_response_text(self, parsed_message: Any) -> str:
        """The text of a chat message, as a dict or an object; of several parts, the text parts joined."""
        content = (
            parsed_message.get("content")
            if isinstance(parsed_message, Mapping)
            else getattr(parsed_message, "content", None)
        )
        if isinstance(content, list | tuple):
            return "".join(part["text"] for part in content if isinstance(part, Mapping) and part.get("type") == "text")
        return "" if content is None else str(content)

    def normalize_response_text(self, example: TaskExample, response_text: str) -> str:
        """Applied to each answer of a group before it is scored."""
        return response_text

    def sft_completion(self, example: TaskExample) -> list[Message]:
        """The gold turns that follow the prompt."""
        return target_messages(example.output)

    @abstractmethod
    def score_response(self, example: TaskExample, response_text: str) -> RewardResult:
        """What one answer earns. Raise when it cannot be said: a raise is a fault, never a zero."""

    def score_responses(self, example: TaskExample, texts: Sequence[str]) -> list[RewardResult]:
        """What each answer of a group earns, in order. Override it where answers are compared with each other."""

        def score(text: str) -> RewardResult:
            return self.score_response(example, self.normalize_response_text(example, text))

        return _each(score, texts, self.max_score_concurrency)

    def score_episode(self, example: TaskExample, episode: EnvironmentEpisode) -> RewardResult:
        return self.score_response(example, episode.response_text)

    def score_episodes(self, example: TaskExample, episodes: Sequence[EnvironmentEpisode]) -> list[RewardResult]:
        if type(self).score_episode is Environment.score_episode:
            return self.score_responses(example, [episode.response_text for episode in episodes])
        return _each(lambda episode: self.score_episode(example, episode), episodes, self.max_score_concurrency)


class EnvironmentSingleTurn(Environment):
    """One prompt, one answer, one reward."""


class EnvironmentMultiTurn(Environment):
    """Several turns before the whole is scored."""

    @abstractmethod
    def start_episode(self, example: TaskExample, prompt_text: str) -> list[Message]:
        """The opening; Flash itself puts the run's prompt text in front where no system message stands."""

    @abstractmethod
    def max_episode_turns(self, example: TaskExample) -> int: ...

    @abstractmethod
    def step_episode(
        self, example: TaskExample, messages: Sequence[Message], assistant_response: str
    ) -> EnvironmentStepResult: ...

    @abstractmethod
    def score_episode(self, example: TaskExample, episode: EnvironmentEpisode) -> RewardResult: ...

    def build_prompt_messages(self, example: TaskExample, prompt_text: str) -> list[Message]:
        return self.start_episode(example, prompt_text)

    def score_response(self, example: TaskExample, response_text: str) -> RewardResult:
        return self.score_episode(example, EnvironmentEpisode(messages=(), response_text=response_text))


def with_system_text(messages: Sequence[Message], prompt_text: str) -> list[Message]:
    """The messages, after the text as system message if there is text and no system message yet."""
    text = prompt_text.strip()
    if not text or any(str(message.get("role", "")).strip().lower() == "system" for message in messages):
        return list(messages)
    return [{"role": "system", "content": text}, *messages]


def _each(score: Callable[[T], RewardResult], items: Sequence[T], at_once: int) -> list[RewardResult]:
    if at_once <= 1 or len(items) <= 1:
        return [score(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor  # loaded where it is used: it costs every fork

    with ThreadPoolExecutor(min(at_once, len(items))) as pool:
        return list(pool.map(score, items))
