"""The two forms of a real `verifiers` environment that the environment host plays."""

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from copy import deepcopy
from typing import Any

from envsdk.environments import EnvironmentMultiTurn, EnvironmentSingleTurn
from envsdk.episodes import EnvironmentEpisode, EnvironmentStepResult, RewardResult
from envsdk.examples import Message, TaskExample
from envsdk.installed.rewards import compares, leaves, scored, scored_together, watch
from envsdk.installed.rollouts import Call, Reply, Rollout, warm
from envsdk.installed.rows import Examples, Rows, without_nulls
from envsdk.records import Source
from envsdk.thinking import Answer
from envsdk.verifiers.messages import as_messages, text_of
from envsdk.verifiers.turns import shown, turn

NO_LIMIT = 1_000
"""Turns of an environment that sets no limit of its own, or asks the policy in a way of its own."""

_EPISODE = "episode"
"""In a step's metadata: which rollout is the episode's."""

Tell = Callable[[int, Any, float], None]
"""Takes the place of an answer, what it earned or raised, and how long that took."""


def most_turns(env: Any) -> int:
    """How often the policy is asked in one rollout."""
    if members := getattr(env, "envs", None):
        return max(most_turns(member) for member in members)
    limit = getattr(env, "max_turns", 0)
    if type(limit) is not int or limit < 1 or not _is_packages(type(env).get_model_response):
        return NO_LIMIT
    return limit


class _Form:
    """What both forms have: rows, prompts, what the policy said, and a loop that lasts as long as this process."""

    takes_answers = True
    """Steps are given answers that know their thoughts, where the run has thoughts."""

    def __init__(self, env: Any) -> None:
        if getattr(env, "message_type", "chat") != "chat":
            raise TypeError(f"{type(env).__name__} completes texts, and only chats can be played: message_type='chat'")
        warm()
        watch(_rubric_type(env.rubric))
        self.author = env
        """What the author's `load_environment` gave."""
        self.max_score_concurrency = int(getattr(env, "max_score_concurrency", 32))
        vars(self)["isolation"] = getattr(env, "isolation", "group")
        self._rows, self._one_at_a_time = Rows(env), threading.Lock()
        self._rows.build()
        self._loops: dict[int, asyncio.AbstractEventLoop] = {}
        """By process. A parent's stays referred to in a fork: it would be closed for both."""
        self._reads_tags = any(_reads_tags(parser) for parser in (env.parser, *(r.parser for r in leaves(env.rubric))))

    @property
    def dataset(self) -> Examples | None:
        return self._rows.of("train")

    def split_rows(self, split: str) -> Examples | None:
        """The rows that the author made for this split; None where it is not the author's code that has them."""
        return self._rows.of(split)

    def has_split(self, split: str) -> bool:
        """Without building anything."""
        return split == "eval" and self._rows.has_eval()

    def task_examples(self, source: Source) -> list[TaskExample]:
        """Rows of a file or a param, in the package's columns or in ours."""
        return self._rows.loaded(source)

    def run_beside(self, work: Callable[[], None]) -> None:
        """Do the work in a thread, while this one, the main one, runs what is awaited, as it would with the package.

        Reward functions may count on it: signals, and with them the timeouts of math-verify, are for the main thread.
        """
        loop, failed = self._own_loop(), []

        def worked() -> None:
            try:
                work()
            except BaseException as error:
                failed.append(error)
            loop.call_soon_threadsafe(loop.stop)

        loop.call_soon(threading.Thread(target=worked, daemon=True).start)
        loop.run_forever()
        for error in failed:
            raise error

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        if os.getpid() not in self._loops:
            self._loops[os.getpid()] = asyncio.new_event_loop()
        return self._loops[os.getpid()]

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def settled() -> tuple[Any, BaseException | None]:
            try:
                return await work, None
            except (Exception, SystemExit) as error:  # SystemExit would end the loop
                return None, error

        loop = self._own_loop()
        if loop.is_running():
            value, error = asyncio.run_coroutine_threadsafe(settled(), loop).result()
        else:
            with self._one_at_a_time:
                value, error = loop.run_until_complete(settled())
        if error is not None:
            raise error
        return value

    def _opening(self, example: TaskExample, prompt_text: str) -> list[Message] | None:
        """What the policy is shown first, where that is the row's prompt and nobody needs to be asked."""
        kind = type(self.author)
        hooks = ("rollout", "setup_state", "get_prompt_messages", "get_model_response", "init_state")
        if not all(_is_packages(getattr(kind, name, None)) for name in hooks) or getattr(self.author, "envs", None):
            return None
        row = self._rows.row(example)
        tools = getattr(self.author, "tool_defs", None) or getattr(self.author, "oai_tools", None)
        if tools or "tool" in str(row.get("info") or "") or "task" in row:  # which some releases refuse
            return None
        return _shown([without_nulls(message) for message in row["prompt"]], prompt_text, [])

    def _reply(self, text: str, call: Call) -> Reply:
        """What the policy said, as an endpoint would tell it: thoughts and calls apart."""
        num_calls = sum(len(message.get("tool_calls") or ()) for message in call.messages)
        as_written = self._reads_tags or not isinstance(text, Answer)
        said = turn(text, reads_tags=as_written, may_call=bool(call.tools), num_calls=num_calls)
        return Reply(dict(said), truncated=isinstance(text, Answer) and text.truncated)


class SingleTurn(_Form, EnvironmentSingleTurn):
    """The policy is asked once."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        if compares(env):
            vars(self)["score_responses"] = self._score_group  # says that answers are compared

    def build_prompt_messages(self, example: TaskExample, prompt_text: str) -> list[Message]:
        return self.start_episode(example, prompt_text)

    def start_episode(self, example: TaskExample, prompt_text: str) -> list[Message]:
        if (opening := self._opening(example, prompt_text)) is not None:
            return opening

        async def asked() -> Call:
            rollout = Rollout(self.author, self._rows.row(example))
            call = _first(await rollout.begin())
            await rollout.abandon()
            return call

        call = self._wait(asked())
        return _shown(call.messages, prompt_text, call.tools)

    def score_response(self, example: TaskExample, response_text: str) -> RewardResult:
        result: RewardResult = self._wait(self._score_one(example, response_text))
        return result

    def score_each(self, example: TaskExample, texts: Sequence[str], tell: Tell) -> None:
        """What each answer earned, or raised, told as it is known.

        On this thread, where functions that are not async run one after another; what they await, they await together.
        """

        async def score(index: int, slots: asyncio.Semaphore) -> None:
            async with slots:
                began = time.perf_counter()
                try:
                    result: Any = await self._score_one(example, texts[index])
                except (Exception, SystemExit) as error:
                    result = error
            tell(index, result, time.perf_counter() - began)

        async def score_all() -> None:
            slots = asyncio.Semaphore(max(1, self.max_score_concurrency))
            await asyncio.gather(*(score(index, slots) for index in range(len(texts))))

        self._wait(score_all())

    async def _score_one(self, example: TaskExample, text: str) -> RewardResult:
        return await scored(self.author, await self._played(example, text))

    def _score_group(self, example: TaskExample, texts: Sequence[str]) -> list[Any]:
        async def score() -> list[Any]:
            states = await asyncio.gather(*(self._played(example, text) for text in texts), return_exceptions=True)
            return await _scored_among(self.author, states)

        results: list[Any] = self._wait(score())
        return results

    async def _played(self, example: TaskExample, text: str) -> Any:
        rollout = Rollout(self.author, self._rows.row(example))
        call = _first(await rollout.begin())
        if await rollout.answer(self._reply(text, call)) is not None:
            await rollout.abandon()
            raise ValueError(f"{type(self.author).__name__} has max_turns=1 and asks the policy a second time")
        return await rollout.ended()


class MultiTurn(_Form, EnvironmentMultiTurn):
    """The policy is asked again and again. Rollouts live here from `start_episode` until their example is gone."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self._rollouts: dict[str, Rollout] = {}
        self._calls: dict[str, Call] = {}
        """What the policy of a rollout is to answer next."""
        self._episode_of: dict[int, str] = {}
        if compares(env):
            vars(self)["score_episodes"] = self._score_group  # says that episodes are compared

    def start_episode(self, example: TaskExample, prompt_text: str) -> list[Message]:
        rollout = Rollout(self.author, self._rows.row(example))
        episode = f"{id(rollout):x}"
        opening = self._opening(example, prompt_text)
        if opening is None:
            call = self._calls[episode] = _first(self._wait(rollout.begin()))
            opening = _shown(call.messages, prompt_text, call.tools)
        self._rollouts[episode], self._episode_of[id(example)] = rollout, episode
        weakref.finalize(example, self._forget, id(example), episode).atexit = False
        return opening

    def max_episode_turns(self, example: TaskExample) -> int:
        return most_turns(self.author)

    def step_episode(
        self, example: TaskExample, messages: Sequence[Message], assistant_response: str
    ) -> EnvironmentStepResult:
        """What the package says next, or the end. Raises the error that the rollout ends with."""
        episode = self._episode_of[id(example)]
        rollout = self._rollouts[episode]

        async def step() -> tuple[bool, list[Message]]:
            # Without a call yet, all that the rollout would have asked for was known.
            call = self._calls.get(episode) or _first(await rollout.begin())
            reply = self._reply(assistant_response, call)
            following = await rollout.answer(reply)
            if following is None:
                return True, _told((await rollout.ended()).get("final_env_response") or [])
            self._calls[episode] = following
            return False, _told(_new(call, reply.message, following))

        done, said = self._wait(step())
        return EnvironmentStepResult(done=done, messages=tuple(said), metadata={_EPISODE: episode})

    def score_episode(self, example: TaskExample, episode: EnvironmentEpisode) -> RewardResult:
        async def score(rollout: Rollout) -> RewardResult:
            return await scored(self.author, await rollout.ended())

        result: RewardResult = self._wait(score(self._played(example, episode)))
        return result

    def _score_group(self, example: TaskExample, episodes: Sequence[EnvironmentEpisode]) -> list[Any]:
        async def score(rollouts: Sequence[Rollout]) -> list[Any]:
            states = await asyncio.gather(*(rollout.ended() for rollout in rollouts), return_exceptions=True)
            return await _scored_among(self.author, states)

        results: list[Any] = self._wait(score([self._played(example, episode) for episode in episodes]))
        return results

    def _played(self, example: TaskExample, episode: EnvironmentEpisode) -> Rollout:
        """The episode's rollout; played again where it was not played here."""
        steps = [step for step in episode.metadata.get("steps", ()) if isinstance(step, Mapping)]
        known = next((step[_EPISODE] for step in reversed(steps) if step.get(_EPISODE) in self._rollouts), None)
        if known is not None:
            return self._rollouts[known]
        own = deepcopy(example)
        self.start_episode(own, "")
        said = [message.get("content") or "" for message in episode.messages if message.get("role") == "assistant"]
        for text in said or [episode.response_text]:
            if self.step_episode(own, (), text).done:
                break
        return self._rollouts[self._episode_of[id(own)]]

    def _forget(self, of: int, episode: str) -> None:
        self._episode_of.pop(of, None)
        self._calls.pop(episode, None)
        if rollout := self._rollouts.pop(episode, None):
            self._own_loop().call_soon_threadsafe(rollout.drop)


async def _scored_among(env: Any, states: Sequence[Any]) -> list[Any]:
    """What each state earned among the others; an error in a state's place stays there, and is compared with none."""
    sound = [state for state in states if not isinstance(state, BaseException)]
    results = iter(await scored_together(env, sound) if sound else [])
    return [state if isinstance(state, BaseException) else next(results) for state in states]


def _first(call: Call | None) -> Call:
    if call is None:
        raise ValueError("the rollout ends before the policy is asked anything")
    return call


def _new(asked: Call, reply: Message, following: Call) -> list[Message]:
    """The messages that the package has added to what was said. Raises ValueError where it did not only add."""
    before, now = [*asked.messages, reply], following.messages
    if [_seen(message) for message in now[: len(before)]] != [_seen(message) for message in before]:
        raise ValueError(
            "the environment changed what was said before; policies are trained on conversations that only grow, in "
            "the tokens that were really drawn"
        )
    if following.tools != asked.tools:
        raise ValueError("the environment changed its tools during a rollout; they are told once, at the beginning")
    return now[len(before) :]


def _seen(message: Message) -> Any:
    """What a policy sees of a message; its own thoughts it may lose."""
    calls = [call.get("function") for call in message.get("tool_calls") or ()]
    content = message.get("content")
    return message.get("role"), content if isinstance(content, str) else text_of(content), calls


def _shown(messages: Sequence[Message], prompt_text: str, tools: Sequence[Any]) -> list[Message]:
    _refuse_images(messages)
    return shown(as_messages(messages, "prompt"), prompt_text, tools)


def _told(messages: Any) -> list[Message]:
    found = [
        without_nulls(message if isinstance(message, Mapping) else message.model_dump())
        for message in as_messages(messages, "what the environment said")
    ]
    _refuse_images(found)
    return [{**message, "content": text_of(message.get("content"))} for message in found]


def _refuse_images(messages: Sequence[Message]) -> None:
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list | tuple) else ()
        if odd := next((part for part in parts if isinstance(part, Mapping) and part.get("type") != "text"), None):
            raise ValueError(f"a message holds a part of type {odd.get('type')!r}, and policies read text only")


def _reads_tags(parser: Any) -> bool:
    """The parser looks for the tags of thoughts in what the policy wrote."""
    kinds = {kind.__name__ for kind in type(parser).__mro__}
    return "ThinkParser" in kinds or ("XMLParser" in kinds and "think" in parser.get_fields())


def _rubric_type(rubric: Any) -> type:
    """The package's `Rubric`, of which every rubric is one."""
    found = [kind for kind in type(rubric).__mro__ if kind.__name__ == "Rubric" and _is_packages(kind)]
    if not found:
        raise TypeError(f"the rubric is a {type(rubric).__name__}, wanted a Rubric of the verifiers package")
    return found[-1]


def _is_packages(thing: Any) -> bool:
    """It comes from the package, and not from the author."""
    return str(getattr(thing, "__module__", "")).partition(".")[0] == "verifiers"
