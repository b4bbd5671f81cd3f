"""What answers earn: reward functions, their weights, and how they get their arguments.

    reward = sum of weight × value over the functions whose weight is not 0

A function names what it wants: `prompt`, `completion`, `answer`, `info`, `state`, `task`, `parser`, an object that was
added to the rubric, a column of the dataset; with `**kwargs` it gets all of them. One with a plural (`completions`,
`answers`, ...) is called once for the whole group and gives a list. A raise is the error of its own rollout, never a 0.
"""

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import CoroutineType
from typing import Any, get_origin

from envsdk.verifiers.errors import RewardError
from envsdk.verifiers.marks import marked
from envsdk.verifiers.parsers import Parser
from envsdk.verifiers.states import ROW_FIELDS, State

RewardFunc = Callable[..., Any]

_SETTLED = frozenset({float, int, bool, str, list, dict, type(None), State})
"""Kinds of values that need no look: `inspect.isawaitable` takes longer than most reward functions."""
_PLURALS = {
    "states": "state", "prompts": "prompt", "completions": "completion", "answers": "answer", "tasks": "task",
    "infos": "info",
}  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """What a function asks for."""

    names: frozenset[str]
    required: tuple[str, ...]
    everything: bool
    """It takes `**kwargs`."""
    group: bool
    """It wants the whole group, and gives a list."""


class Rubric:
    """Reward functions, called in order."""

    def __init__(
        self,
        funcs: Sequence[RewardFunc] | None = None,
        weights: Sequence[float] | None = None,
        parser: Parser | None = None,
    ) -> None:
        self.funcs: list[RewardFunc] = list(funcs or [])
        self.weights: list[float] = list(weights or [1.0] * len(self.funcs))
        if len(self.weights) != len(self.funcs):
            raise ValueError(
                f"Number of weights ({len(self.weights)}) must match number of functions ({len(self.funcs)})"
            )
        self.parser = parser or Parser()
        self.class_objects: dict[str, Any] = {"parser": self.parser}

    def add_reward_func(self, func: RewardFunc, weight: float = 1.0) -> None:
        self.funcs.append(func)
        self.weights.append(weight)

    def add_metric(self, func: RewardFunc, weight: float = 0.0) -> None:
        """A figure beside the reward: neither its value nor its failing touches it."""
        self.add_reward_func(func, weight)

    def add_class_object(self, name: str, obj: Any) -> None:
        """Something that functions get by this name."""
        self.class_objects[name] = obj

    @property
    def has_group_rewards(self) -> bool:
        """The answers of a group are compared, so they can only be scored together."""
        return any(wanted(func).group for func in self.funcs) or overrides(self, "score_group")

    def leaves(self) -> "list[Rubric]":
        """The rubrics that hold the functions."""
        return [self]

    async def score_rollout(self, state: State) -> None:
        """Puts `reward` and `metrics` into the state. Raises what a function raised."""
        if any(wanted(func).group for func in self.funcs):
            raise ValueError(f"{self._name()} compares the answers of a group: score them with score_group")
        await self._score([state])
        if state["error"] is not None:
            raise state["error"]

    async def score_group(self, states: Sequence[State]) -> None:
        """Puts `reward` and `metrics` into each state, or `error` where a function raised for it."""
        await self._score(states)

    async def cleanup(self, state: State) -> None:
        for handler in marked(self, "cleanup"):
            await call(handler, {"state": state, **self._objects(state)})

    async def teardown(self) -> None:
        for handler in marked(self, "teardown"):
            await settled(handler())

    def _names(self) -> list[str]:
        return unique(name_of(func) for func in self.funcs)

    def _name(self) -> str:
        return type(self).__name__

    async def _score(self, states: Sequence[State]) -> None:
        rewards = [0.0] * len(states)
        metrics: list[dict[str, float]] = [{} for _ in states]
        for func, weight, name in zip(self.funcs, self.weights, self._names(), strict=True):
            called = self._grouped if wanted(func).group else self._singly
            for at, value in enumerate(await called(func, name, states)):
                if isinstance(value, BaseException):
                    _failed(states[at], name, weight, value)
                elif value is not None:
                    metrics[at][name] = value
                    rewards[at] += weight * value if weight else 0.0  # 0 × NaN would be NaN
        for state, reward, figures in zip(states, rewards, metrics, strict=True):
            state["metrics"] = figures
            state["reward"] = None if state.get("error") else reward

    async def _singly(self, func: RewardFunc, name: str, states: Sequence[State]) -> list[Any]:
        """A value for each state; None for those that have failed already."""
        whole = [state for state in states if state.get("error") is None]
        if len(whole) > 1 and inspect.iscoroutinefunction(func):
            values: Iterable[Any] = await asyncio.gather(*(self._value(func, name, state) for state in whole))
        else:
            values = [await self._value(func, name, state) for state in whole]
        found = iter(values)
        return [None if state.get("error") is not None else next(found) for state in states]

    async def _value(self, func: RewardFunc, name: str, state: State) -> Any:
        try:
            return reward_number(await call(func, self._objects(state), name), name)
        except asyncio.CancelledError:
            raise
        except (Exception, SystemExit) as error:
            return error

    async def _grouped(self, func: RewardFunc, name: str, states: Sequence[State]) -> list[Any]:
        each = [self._objects(state) for state in states]
        objects = {plural: [found[single] for found in each] for plural, single in _PLURALS.items()}
        try:
            values = await call(func, {**objects, **self.class_objects}, name)
            if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
                raise RewardError(
                    f"group reward function {name} gave {_shown(values)}, wanted a number for each answer"
                )
            if len(values) != len(states):
                raise RewardError(
                    f"group reward function {name} gave {len(values)} numbers for {len(states)} answers, "
                    "wanted one for each"
                )
            return [reward_number(value, name) for value in values]
        except asyncio.CancelledError:
            raise
        except (Exception, SystemExit) as error:
            return [error] * len(states)

    def _objects(self, state: State) -> dict[str, Any]:
        """All that a function may ask for, by name."""
        row = state.get("input")
        columns = {key: value for key, value in row.items() if key not in ROW_FIELDS} if row else {}
        return {
            **columns,
            "prompt": state.get("prompt"),
            "completion": state.get("completion"),
            "answer": state.get("answer", ""),
            "info": state.get("info", {}),
            "state": state,
            **self.class_objects,
            "task": state.get("task"),
        }


class RubricGroup(Rubric):
    """Several rubrics, each with a parser and objects of its own; their rewards are added up."""

    def __init__(self, rubrics: Sequence[Rubric], parser: Parser | None = None) -> None:
        if not rubrics:
            raise ValueError("RubricGroup must have at least one rubric")
        super().__init__(parser=parser)
        self.rubrics = list(rubrics)

    def add_reward_func(self, func: RewardFunc, weight: float = 1.0) -> None:
        """To the first rubric; so are metrics and objects."""
        self.rubrics[0].add_reward_func(func, weight)

    def add_class_object(self, name: str, obj: Any) -> None:
        self.rubrics[0].add_class_object(name, obj)

    @property
    def has_group_rewards(self) -> bool:
        return any(rubric.has_group_rewards for rubric in self.rubrics) or overrides(self, "score_group")

    def leaves(self) -> list[Rubric]:
        return [leaf for rubric in self.rubrics for leaf in rubric.leaves()]

    async def score_rollout(self, state: State) -> None:
        await self._add_up([state], lambda rubric: rubric.score_rollout(state))

    async def score_group(self, states: Sequence[State]) -> None:
        await self._add_up(states, lambda rubric: rubric.score_group(states))

    async def cleanup(self, state: State) -> None:
        await super().cleanup(state)
        for rubric in self.rubrics:
            await rubric.cleanup(state)

    async def teardown(self) -> None:
        await super().teardown()
        for rubric in self.rubrics:
            await rubric.teardown()

    async def _add_up(self, states: Sequence[State], score: Callable[[Rubric], Awaitable[None]]) -> None:
        rewards = [0.0] * len(states)
        metrics: list[dict[str, float]] = [{} for _ in states]
        for rubric in self.rubrics:
            for state in states:
                state["reward"], state["metrics"] = 0.0, {}
            await score(rubric)
            for at, state in enumerate(states):
                rewards[at] += state["reward"] or 0.0
                for name, value in (state["metrics"] or {}).items():
                    metrics[at][another(name, metrics[at])] = value
        for state, reward, figures in zip(states, rewards, metrics, strict=True):
            state["metrics"] = figures
            state["reward"] = None if state.get("error") else reward


@lru_cache(maxsize=4096)
def wanted(func: RewardFunc) -> Wanted:
    """What a function asks for, and whether it wants the whole group.

    It does if it names a plural. One that says it gives a list does too, unless it names what a single answer has.
    """
    signature = inspect.signature(func)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.kind in by_name]
    names = frozenset(parameter.name for parameter in parameters)
    gives = signature.return_annotation
    gives_list = gives is list or get_origin(gives) is list or str(gives).lower().startswith("list")
    return Wanted(
        names=names,
        required=tuple(parameter.name for parameter in parameters if parameter.default is parameter.empty),
        everything=any(found.kind is found.VAR_KEYWORD for found in signature.parameters.values()),
        group=bool(names & _PLURALS.keys()) or (gives_list and not names & set(_PLURALS.values())),
    )


async def call(func: Callable[..., Any], objects: Mapping[str, Any], name: str = "") -> Any:
    """The function with what it names; awaited if it is to be. Raises RewardError for what nobody provides."""
    asks = wanted(func)
    if missing := [parameter for parameter in asks.required if parameter not in objects]:
        raise RewardError(
            f"{name or name_of(func)} asks for {', '.join(missing)}, which nobody provides; there are "
            f"{', '.join(sorted(objects))}"
        )
    given = objects if asks.everything else {name: objects[name] for name in asks.names if name in objects}
    return await settled(func(**given))


async def settled(value: Any) -> Any:
    """The value, awaited if it is to be."""
    kind = type(value)
    if kind is CoroutineType:
        return await value
    return await value if kind not in _SETTLED and inspect.isawaitable(value) else value


def reward_number(value: Any, name: str) -> float:
    """What `float()` makes of it. Raises RewardError for what it makes nothing of, and for NaN and infinity."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise RewardError(f"reward function {name} gave {_shown(value)}, wanted a number") from None
    if not math.isfinite(number):
        raise RewardError(f"reward function {name} gave {_shown(value)}, wanted a finite number")
    return number


def name_of(func: Any) -> str:
    """As metrics name it."""
    inner = getattr(func, "func", func)  # of a functools.partial
    return str(getattr(func, "__name__", None) or getattr(inner, "__name__", None) or type(func).__name__)


def unique(names: Iterable[str]) -> list[str]:
    """The names, those that come again numbered: `f`, `f_2`, `f_3`."""
    found: dict[str, None] = {}
    for name in names:
        found[another(name, found)] = None
    return list(found)


def another(name: str, taken: Mapping[str, Any]) -> str:
    number = 1
    while (found := name if number == 1 else f"{name}_{number}") in taken:
        number += 1
    return found


def overrides(thing: object, method: str) -> bool:
    """The author's class has a method of its own in place of ours."""
    return not str(getattr(getattr(type(thing), method), "__module__", "")).startswith("envsdk.")


def _failed(state: State, name: str, weight: float, error: BaseException) -> None:
    if weight:
        state["error"] = state.get("error") or error
    else:
        notes = state.setdefault("metric_errors", {})
        notes[name] = f"{type(error).__name__}: {error}"


def _shown(value: Any) -> str:
    try:
        return f"{repr(value)[:100]} (a {type(value).__name__})"
    except Exception:
        return f"a {type(value).__name__}"
