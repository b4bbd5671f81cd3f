"""Environments: rows to show the policy, what the environment answers to its turns, and a rubric for the whole.

A rollout is begun with a row, gets replies of the policy one by one, and is finished; whoever has the policy drives it:

    state = await env.begin(row)
    while (prompt := await env.next_prompt(state)) is not None:
        await env.add_reply(state, prompt, reply)
    await env.finish(state)
"""

import asyncio
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from envsdk.verifiers.datasets import Row, Rows, Source, formatted, rows_of
from envsdk.verifiers.errors import Error, OverlongPromptError
from envsdk.verifiers.marks import marked, stop
from envsdk.verifiers.messages import Message, Messages, as_message, as_messages
from envsdk.verifiers.parsers import Parser
from envsdk.verifiers.rubrics import Rubric, RubricGroup, call, settled
from envsdk.verifiers.states import State, opened, step_of

log = logging.getLogger(__name__)


class Environment(ABC):
    """Rows, a parser and a rubric. Keywords that it does not know become attributes."""

    max_score_concurrency: int = 32
    """How many answers of a group may be scored side by side; functions that are not async go one after another."""
    isolation: str = "group"
    """`call`: each answer is scored in a process of its own, for environments that run what the policy wrote."""

    def __init__(
        self,
        dataset: Source = None,
        eval_dataset: Source = None,
        system_prompt: str | None = None,
        few_shot: Sequence[Any] | None = None,
        parser: Parser | None = None,
        rubric: Rubric | None = None,
        sampling_args: Mapping[str, Any] | None = None,
        message_type: str = "chat",
        tool_defs: Sequence[Any] | None = None,
        max_workers: int = 512,
        env_id: str | None = None,
        env_args: Mapping[str, Any] | None = None,
        map_kwargs: Mapping[str, Any] | None = None,
        max_seq_len: int | None = None,
        score_rollouts: bool = True,
        pass_threshold: float = 0.5,
        **attributes: Any,
    ) -> None:
        if dataset is None and eval_dataset is None:
            raise ValueError("Either dataset or eval_dataset must be provided")
        if message_type != "chat":
            raise ValueError(f"message_type is {message_type!r}, but policies are chat models: leave it out")
        if "oai_tools" in attributes:
            raise ValueError("`oai_tools` is no longer supported. Use `tool_defs`: [{name, description, parameters}]")
        self.system_prompt, self.few_shot = system_prompt, few_shot
        self.parser, self.rubric = parser or Parser(), rubric or Rubric()
        self.sampling_args = dict(sampling_args or {})
        self.tool_defs = [dict(tool) for tool in tool_defs or ()]
        self.max_workers, self.max_seq_len = max_workers, max_seq_len
        self.env_id, self.env_args = env_id or "", dict(env_args or {})
        self.score_rollouts, self.pass_threshold = score_rollouts, pass_threshold
        self.dataset: Rows | None = None
        """The rows, once they are built; `get_dataset` builds them."""
        self.eval_dataset: Rows | None = None
        self.dataset_source, self.eval_dataset_source = dataset, eval_dataset
        for name, value in attributes.items():
            setattr(self, name, value)
        if dataset is not None and not callable(dataset):
            self.build_dataset()
        if eval_dataset is not None and not callable(eval_dataset):
            self.build_eval_dataset()

    @property
    def requires_group_rollouts(self) -> bool:
        return self.rubric.has_group_rewards

    def build_dataset(self) -> Rows | None:
        """The training rows; a builder is called the first time."""
        if self.dataset is None and self.dataset_source is not None:
            self.dataset = self._rows(self.dataset_source, "dataset")
        return self.dataset

    def build_eval_dataset(self) -> Rows | None:
        if self.eval_dataset is None and self.eval_dataset_source is not None:
            self.eval_dataset = self._rows(self.eval_dataset_source, "eval_dataset")
        return self.eval_dataset

    def get_dataset(self, n: int = -1, seed: int | None = None) -> Rows:
        """The training rows, the first `n` of them, in an order by `seed`. Raises ValueError where there are none."""
        rows = self.build_dataset()
        if rows is None:
            raise ValueError("dataset is not set")
        return _some(rows, n, seed)

    def get_eval_dataset(self, n: int = -1, seed: int | None = None) -> Rows:
        """The evaluation rows; without any, the training rows, and a warning says so."""
        rows = self.build_eval_dataset()
        if rows is None:
            warnings.warn("eval_dataset is not set, falling back to train dataset", UserWarning, stacklevel=2)
            return self.get_dataset(n, seed)
        return _some(rows, n, seed)

    def formatted(self, row: Any, index: int, name: str = "dataset") -> Row:
        """A row of the author's with its `prompt`. Raises ValueError naming the row."""
        return formatted(row, index, system_prompt=self.system_prompt, few_shot=self.few_shot, name=name)

    def add_rubric(self, rubric: Rubric) -> None:
        """Score by this one too."""
        if isinstance(self.rubric, RubricGroup):
            self.rubric.rubrics.append(rubric)
        else:
            self.rubric = RubricGroup([self.rubric, rubric])

    def set_kwargs(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            setter: Callable[[Any], None] | None = getattr(self, f"set_{name}", None)
            if setter:
                setter(value)
            else:
                setattr(self, name, value)

    async def begin(self, row: Mapping[str, Any], **known: Any) -> State:
        """The state of a rollout that starts now."""
        state = opened(row, tool_defs=self.tool_defs, **known)
        if isinstance(state["info"], Mapping) and state["info"].get("tool_defs") is not None:
            state["tool_defs"] = list(state["info"]["tool_defs"])
        state = await settled(self.setup_state(state)) or state
        for handler in marked(self, "setup"):
            await call(handler, {"state": state, "env": self})
        return state

    async def setup_state(self, state: State) -> State | None:
        """Put what the rollout needs into the state."""
        return state

    @abstractmethod
    async def next_prompt(self, state: State) -> Messages | None:
        """What the policy answers next; None when the rollout is over."""

    @abstractmethod
    async def add_reply(
        self, state: State, prompt: Sequence[Message], reply: Message, *, is_truncated: bool = False
    ) -> None:
        """The policy has answered."""

    async def finish(self, state: State) -> None:
        """The rollout is over."""
        for handler in marked(self, "cleanup"):
            await call(handler, {"state": state, "env": self})

    async def teardown(self) -> None:
        await self.rubric.teardown()
        for handler in marked(self, "teardown"):
            await settled(handler())

    async def evaluate(self, client: Any, model: str, **options: Any) -> dict[str, Any]:
        """Play and score rows of the evaluation dataset; what there is to choose stands at `evaluation.evaluate`."""
        from envsdk.verifiers.evaluation import evaluate

        return await evaluate(self, client, model, **options)

    async def generate(self, inputs: Sequence[Row], client: Any, model: str, **options: Any) -> dict[str, Any]:
        """Play and score these rows."""
        from envsdk.verifiers.evaluation import generate

        return await generate(self, inputs, client, model, **options)

    def evaluate_sync(self, client: Any, model: str, **options: Any) -> dict[str, Any]:
        results: dict[str, Any] = run(self.evaluate(client, model, **options))
        return results

    def generate_sync(self, inputs: Sequence[Row], client: Any, model: str, **options: Any) -> dict[str, Any]:
        results: dict[str, Any] = run(self.generate(inputs, client, model, **options))
        return results

    def _rows(self, source: Source, name: str) -> Rows:
        rows = Rows(rows_of(source, name), edit=lambda row, index: self.formatted(row, index, name))
        if len(rows):
            columns = rows[0]
            if self.few_shot and "question" not in columns:
                warnings.warn(f"{name} has a `prompt` column, so few_shot is ignored", UserWarning, stacklevel=4)
        return rows


class MultiTurnEnv(Environment):
    """The policy and the environment take turns, until a stop condition holds or `max_turns` are played (-1: no limit).

    A condition is asked before each turn of the policy. What `env_response` puts into the state therefore takes effect
    after one more turn; `state["final_env_response"] = messages` ends the rollout at once, with those messages.
    """

    def __init__(self, max_turns: int = -1, timeout_seconds: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.max_turns, self.timeout_seconds = max_turns, timeout_seconds
        self.max_total_completion_tokens = -1
        if max_turns != 1:
            self.add_rubric(_counting_turns())

    @abstractmethod
    async def env_response(self, messages: Messages, state: State, **options: Any) -> Any:
        """What the environment answers: messages, or a text as the user."""

    @stop(priority=100)
    async def has_error(self, state: State) -> bool:
        return state.get("error") is not None

    @stop
    async def prompt_too_long(self, state: State) -> bool:
        return bool(state.get("prompt_too_long"))

    @stop
    async def max_turns_reached(self, state: State) -> bool:
        return 0 < self.max_turns <= len(state["trajectory"])

    @stop
    async def max_total_completion_tokens_reached(self, state: State) -> bool:
        used = (state.get("usage") or {}).get("output_tokens", 0)
        return bool(0 < self.max_total_completion_tokens <= used)

    @stop
    async def has_final_env_response(self, state: State) -> bool:
        return state.get("final_env_response") is not None

    def set_max_total_completion_tokens(self, tokens: int) -> None:
        self.max_total_completion_tokens = tokens

    async def get_prompt_messages(self, state: State) -> Messages:
        """Everything that was said, and what the environment answers to it."""
        if not state["trajectory"]:
            return as_messages(state["prompt"], "prompt")
        said = conversation(state)
        answered = await settled(self.env_response(said, state))
        return [*said, *as_messages([] if answered is None else answered, "env_response")]

    async def is_completed(self, state: State) -> bool:
        """Whether a stop condition holds; the state then says which."""
        for condition in marked(self, "stop"):
            if await call(condition, {"state": state, "env": self}):
                state["is_completed"], state["stop_condition"] = True, condition.__name__
                state["is_truncated"] = bool(state.get("is_truncated")) or any(
                    step["is_truncated"] for step in state["trajectory"]
                )
                return True
        return False

    async def next_prompt(self, state: State) -> Messages | None:
        while not await self.is_completed(state):
            try:
                prompt = as_messages(await settled(self.get_prompt_messages(state)), "prompt")
            except OverlongPromptError:
                state["prompt_too_long"] = state["is_truncated"] = True
                continue
            except Error as error:
                state["error"] = error
                continue
            if state.get("final_env_response") is None:
                return prompt
        return None

    async def add_reply(
        self, state: State, prompt: Sequence[Message], reply: Message, *, is_truncated: bool = False
    ) -> None:
        step = step_of(prompt, [as_message(reply)], is_truncated=is_truncated)
        await settled(self.add_trajectory_step(state, {**step, "trajectory_id": state["trajectory_id"]}))

    async def add_trajectory_step(self, state: State, trajectory_step: dict[str, Any]) -> None:
        """Override it to note more of a turn."""
        state["trajectory"].append(trajectory_step)

    async def finish(self, state: State) -> None:
        await settled(self.render_completion(state))
        await super().finish(state)

    async def render_completion(self, state: State) -> None:
        """`completion` is everything after the prompt, what the environment and its tools said included."""
        final = as_messages(state.get("final_env_response") or [], "final_env_response")
        said = conversation(state)
        state["completion"] = [*said[len(state["prompt"]) :], *final] if said else []


class SingleTurnEnv(MultiTurnEnv):
    """One prompt, one answer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_turns=1, **options)

    async def env_response(self, messages: Messages, state: State, **options: Any) -> Any:
        raise NotImplementedError("env_response is not implemented for SingleTurnEnv")


def conversation(state: State) -> Messages:
    """All messages up to the policy's last turn; none before its first."""
    if not state["trajectory"]:
        return []
    last = state["trajectory"][-1]
    return [*last["prompt"], *last["completion"]]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine, from code that is not async; also inside a notebook's loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _counting_turns() -> Rubric:
    def num_turns(state: State) -> int:
        return len(state["trajectory"])

    rubric = Rubric()
    rubric.add_metric(num_turns)
    return rubric


def _some(rows: Rows, n: int, seed: int | None) -> Rows:
    rows = rows.shuffle(seed) if seed is not None else rows
    return rows.take(n) if n > 0 else rows
