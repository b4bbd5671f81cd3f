"""An environment of this dialect as the environment host plays it: through the hooks of `envsdk.environments`.

Rewards are the rubric's, its functions are metrics, and what a function raises is the fault of its own answer.
"""

import asyncio
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from envsdk.environments import EnvironmentMultiTurn, EnvironmentSingleTurn
from envsdk.episodes import EnvironmentEpisode, EnvironmentStepResult, RewardMetric, RewardResult
from envsdk.examples import Message as PlainMessage
from envsdk.examples import TaskExample, stable_example_id
from envsdk.records import Source, load_records
from envsdk.thinking import Answer
from envsdk.verifiers.datasets import Rows
from envsdk.verifiers.environments import Environment, MultiTurnEnv
from envsdk.verifiers.messages import Message, Messages, as_message, as_messages, text_of
from envsdk.verifiers.parsers import Parser, ThinkParser, XMLParser
from envsdk.verifiers.rubrics import another
from envsdk.verifiers.states import State, read_info
from envsdk.verifiers.turns import num_calls, shown, told, turn
from envsdk.verifiers.waiting import Beside, wait, wait_all

_NO_LIMIT = 1_000
"""Turns of an environment that sets no limit of its own."""
_EPISODE = "episode"
"""In a step's metadata: which state is the episode's."""

Tell = Callable[[int, Any, float], None]
"""Takes the place of an answer, what it earned or raised, and how long that took."""


def hosted_form(env: Environment) -> "SingleTurn | MultiTurn":
    """Single turn where one turn is all there is, and else multi turn. Raises TypeError for what cannot be driven."""
    if not isinstance(env, MultiTurnEnv):
        raise TypeError(f"{type(env).__name__} is neither a SingleTurnEnv nor a MultiTurnEnv, so nobody can play it")
    return SingleTurn(env) if env.max_turns == 1 else MultiTurn(env)


class _Form:
    """What both forms have: rows, prompts, and what a scored state is worth."""

    def __init__(self, env: MultiTurnEnv) -> None:
        self.author = env
        """What the author's `load_environment` gave."""
        self.max_score_concurrency = env.max_score_concurrency
        vars(self)["isolation"] = env.isolation
        parsers = [env.parser, *(leaf.parser for leaf in env.rubric.leaves())]
        self._reads_tags = any(_reads_tags(parser) for parser in parsers)

    @property
    def dataset(self) -> Sequence[TaskExample] | None:
        rows = self.author.build_dataset()
        return None if rows is None else self._examples(rows)

    def split_rows(self, split: str) -> Sequence[TaskExample] | None:
        """The rows that the author made for this split; None where it is not the author's code that has them."""
        if split == "eval":
            rows = self.author.build_eval_dataset()
            return None if rows is None else self._examples(rows)
        return self.dataset if split == "train" else None

    def has_split(self, split: str) -> bool:
        """Without building anything."""
        return split == "eval" and self.author.eval_dataset_source is not None

    def task_examples(self, source: Source) -> list[TaskExample]:
        """Rows of a file or a param, in the columns of either dialect."""
        return [self._example(_renamed(record), index) for index, record in enumerate(load_records(source))]

    def _examples(self, rows: Rows) -> "_Examples":
        return _Examples(rows, self._example)

    def _example(self, row: Any, index: int) -> TaskExample:
        found = self.author.formatted(row, index)
        asked = [text_of(message.get("content")) for message in found["prompt"] if message.get("role") == "user"]
        text = found.get("question") if isinstance(found.get("question"), str) else (asked or [""])[-1]
        try:
            info = read_info(found.get("info"))
        except ValueError as error:
            raise ValueError(f"row {index + 1}: {error}") from error
        return TaskExample(
            record=dict(row),
            input=str(text).strip(),
            id=stable_example_id(index),
            metadata=dict(info) if isinstance(info, Mapping) else {},
            output=self._gold(found),
        )

    def _row(self, example: TaskExample) -> dict[str, Any]:
        number = (example.id or "").rpartition("_")[2]
        return self.author.formatted(_renamed(example.record), int(number) if number.isdigit() else 0)

    def _gold(self, row: Mapping[str, Any]) -> Any:
        """A `completion` column; else the plainest text in which the parser finds the answer; else None."""
        if row.get("completion") is not None:
            completion = row["completion"]
            return completion if isinstance(completion, str) else told(as_messages(completion, "completion"))
        answer = row.get("answer")
        if answer is None or answer == "":
            return None
        parser = self.author.parser
        if type(parser) is Parser:
            parser = self.author.rubric.leaves()[0].parser
        texts = [str(answer), f"\\boxed{{{answer}}}"]
        if isinstance(parser, XMLParser) and parser.get_fields() == [parser.answer_field]:
            texts.append(parser.format(**{parser.answer_field: answer}))
        return next((text for text in texts if _parsed(parser, text) == str(answer)), None)

    def _opening(self, state: State, prompt: Messages, prompt_text: str) -> list[PlainMessage]:
        return shown(prompt, prompt_text, state["tool_defs"])

    def _turn(self, text: str, before: Iterable[Message] = ()) -> Message:
        """What the policy wrote, after the messages of its earlier turns."""
        may_call = bool(self.author.tool_defs)
        calls = num_calls(before) if may_call else 0
        return turn(text, reads_tags=self._reads_tags, may_call=may_call, num_calls=calls)

    async def _scored(self, state: State) -> RewardResult:
        rubric = self.author.rubric
        await rubric.score_rollout(state)
        await rubric.cleanup(state)
        return self._result(state)

    async def _scored_together(self, states: Sequence[State]) -> list[Any]:
        """What each earned, or what its functions raised."""
        rubric = self.author.rubric
        await rubric.score_group(states)
        for state in states:
            await rubric.cleanup(state)
        return [state["error"] or self._result(state) for state in states]

    def _result(self, state: State) -> RewardResult:
        weights: dict[str, float] = {}
        for leaf in self.author.rubric.leaves():
            for name, weight in zip(leaf._names(), leaf.weights, strict=True):
                weights[another(name, weights)] = weight
        figures = [
            RewardMetric(name, score=float(value), weight=weights.get(name))
            for name, value in (state["metrics"] or {}).items()
        ]
        failed = [RewardMetric(name, reason=reason) for name, reason in (state.get("metric_errors") or {}).items()]
        return RewardResult(score=state["reward"], threshold=self.author.pass_threshold, metrics=(*figures, *failed))


class SingleTurn(_Form, EnvironmentSingleTurn):
    """A SingleTurnEnv."""

    def __init__(self, env: MultiTurnEnv) -> None:
        super().__init__(env)
        if env.rubric.has_group_rewards:
            vars(self)["score_responses"] = self._score_group  # says that answers are compared

    def build_prompt_messages(self, example: TaskExample, prompt_text: str) -> list[PlainMessage]:
        return self.start_episode(example, prompt_text)

    def start_episode(self, example: TaskExample, prompt_text: str) -> list[PlainMessage]:
        async def begun() -> tuple[State, Messages]:
            state = await self.author.begin(self._row(example))
            return state, await self._first_prompt(state)

        state, prompt = wait(begun())
        return self._opening(state, prompt, prompt_text)

    def score_response(self, example: TaskExample, response_text: str) -> RewardResult:
        return wait(self._score_one(example, response_text))

    def score_each(self, example: TaskExample, texts: Sequence[str], tell: Tell) -> None:
        """What each answer earned, or raised, told as it is known.

        On this thread, where functions that are not async run one after another; what they await, they await together.
        """

        slots = asyncio.Semaphore(max(1, self.max_score_concurrency))

        async def score(index: int, text: str) -> None:
            async with slots:
                began = time.perf_counter()
                try:
                    result: Any = await self._score_one(example, text)
                except (Exception, SystemExit) as error:
                    result = error
            tell(index, result, time.perf_counter() - began)

        wait_all(score(index, text) for index, text in enumerate(texts))

    def _score_group(self, example: TaskExample, texts: Sequence[str]) -> list[Any]:
        async def score() -> list[Any]:
            return await self._scored_together([await self._played(example, text) for text in texts])

        return wait(score())

    async def _score_one(self, example: TaskExample, text: str) -> RewardResult:
        return await self._scored(await self._played(example, text))

    async def _played(self, example: TaskExample, text: str) -> State:
        state = await self.author.begin(self._row(example))
        prompt = await self._first_prompt(state)
        await self.author.add_reply(state, prompt, self._turn(text))
        await self.author.is_completed(state)  # notes which condition it was
        await self.author.finish(state)
        return state

    async def _first_prompt(self, state: State) -> Messages:
        prompt = await self.author.next_prompt(state)
        if prompt is None:
            raise state.get("error") or ValueError(f"the rollout ends before it begins: {state['stop_condition']}")
        return prompt


class MultiTurn(_Form, EnvironmentMultiTurn):
    """A MultiTurnEnv, whose states live here from `start_episode` until their example is gone."""

    def __init__(self, env: MultiTurnEnv) -> None:
        super().__init__(env)
        self._states: dict[str, tuple[State, Messages]] = {}
        """With what the policy is to answer next."""
        self._episode_of: dict[int, str] = {}
        self._beside = Beside(together=env.max_score_concurrency > 1)
        """What a state holds may be bound to a loop, so there is one for all."""
        if env.rubric.has_group_rewards:
            vars(self)["score_episodes"] = self._score_group  # says that episodes are compared

    def start_episode(self, example: TaskExample, prompt_text: str) -> list[PlainMessage]:
        async def begun() -> tuple[State, Messages]:
            state = await self.author.begin(self._row(example))
            prompt = await self.author.next_prompt(state)
            if prompt is None:
                raise state.get("error") or ValueError(f"the episode ends at once: {state['stop_condition']}")
            return state, prompt

        state, prompt = self._beside.wait(begun())
        episode = state["trajectory_id"]
        self._states[episode], self._episode_of[id(example)] = (state, prompt), episode
        weakref.finalize(example, self._forget, id(example), episode).atexit = False
        return self._opening(state, prompt, prompt_text)

    def max_episode_turns(self, example: TaskExample) -> int:
        return self.author.max_turns if self.author.max_turns > 0 else _NO_LIMIT

    def step_episode(
        self, example: TaskExample, messages: Sequence[PlainMessage], assistant_response: str
    ) -> EnvironmentStepResult:
        """What `env_response` answers, or the end. Raises the error that the rollout ends with."""
        episode = self._episode_of[id(example)]
        state, prompt = self._states[episode]
        reply = self._turn(assistant_response, prompt)

        async def step() -> Messages | None:
            await self.author.add_reply(state, prompt, reply)
            following = await self.author.next_prompt(state)
            if following is None and state.get("error") is not None:
                raise state["error"]
            return following

        following, said = self._beside.wait(step()), [*prompt, reply]
        if following is None:
            final = as_messages(state.get("final_env_response") or [], "final_env_response")
            return EnvironmentStepResult(done=True, messages=tuple(told(final)), metadata={_EPISODE: episode})
        if following[: len(said)] != said:
            raise ValueError(
                "get_prompt_messages changed what was said before; policies are trained on conversations that only grow"
            )
        self._states[episode] = state, following
        new = told(following[len(said) :])
        return EnvironmentStepResult(done=False, messages=tuple(new), metadata={_EPISODE: episode})

    def score_episode(self, example: TaskExample, episode: EnvironmentEpisode) -> RewardResult:
        result: RewardResult = self._beside.wait(self._score_one(self._finished(example, episode)))
        return result

    def _score_group(self, example: TaskExample, episodes: Sequence[EnvironmentEpisode]) -> list[Any]:
        states = [self._finished(example, episode) for episode in episodes]

        async def score() -> list[Any]:
            for state in states:
                await self.author.finish(state)
            return await self._scored_together(states)

        results: list[Any] = self._beside.wait(score())
        return results

    async def _score_one(self, state: State) -> RewardResult:
        await self.author.finish(state)
        return await self._scored(state)

    def _finished(self, example: TaskExample, episode: EnvironmentEpisode) -> State:
        """The episode's state, the policy's turns as they are scored; played again where it was not played here."""
        steps = [step for step in episode.metadata.get("steps", ()) if isinstance(step, Mapping)]
        known = next((step[_EPISODE] for step in reversed(steps) if step.get(_EPISODE) in self._states), None)
        said = [message for message in episode.messages if message.get("role") == "assistant"]
        if known is None:
            own = deepcopy(example)
            self.start_episode(own, "")
            for text in [message.get("content") or "" for message in said] or [episode.response_text]:
                if self.step_episode(own, (), text).done:
                    break
            known = self._episode_of[id(own)]
        state, _ = self._states[known]
        turns = [(step["prompt"], message) for step in state["trajectory"] for message in step["completion"]]
        for (before, played), message in zip(reversed(turns), reversed(said), strict=False):
            if isinstance(message.get("content"), Answer):
                played.update(self._turn(message["content"], before))
        return state

    def _forget(self, of: int, episode: str) -> None:
        self._episode_of.pop(of, None)
        self._states.pop(episode, None)


class _Examples(Sequence[TaskExample]):
    """Rows as tasks, each made when it is read."""

    def __init__(self, rows: Rows, make: Callable[[Any, int], TaskExample]) -> None:
        self._rows, self._make = rows, make

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[TaskExample]:
        return (self._make(row, index) for index, row in enumerate(self._rows.raw()))

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[index] for index in range(*at.indices(len(self)))]
        return self._make(self._rows.raw_at(at), at)


def _reads_tags(parser: Parser) -> bool:
    return isinstance(parser, ThinkParser) or (isinstance(parser, XMLParser) and "think" in parser.get_fields())


def _parsed(parser: Parser, text: str) -> Any:
    try:
        found = parser.parse_answer([as_message({"role": "assistant", "content": text})])
    except Exception:  # the author's own extract_fn
        return None
    return found if found is None else str(found)


def _renamed(record: Any) -> Any:
    """A row of the other dialect in the columns of this one."""
    if isinstance(record, Mapping) and "input" in record and not ({"prompt", "question"} & record.keys()):
        row = {**record, "question": record["input"], "info": record.get("info", record.get("metadata"))}
        return {**row, "answer": record.get("answer", record.get("output"))}
    return record
