"""What a finished rollout of the real package earns, by its own rubric.

A reward function that raises, or gives what is no finite number, is logged by the package and counts as 0. Here it is
noted while it happens, and becomes the fault of its rollout again.
"""

import functools
import inspect
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from envsdk.episodes import RewardMetric, RewardResult
from envsdk.faults import NoRewardError

Note = Callable[[BaseException], None]


@dataclass(frozen=True)
class _Failed:
    """A function of the rubric that gave no figure."""

    name: str
    error: BaseException
    counts: bool
    """Its weight is not 0: without it there is no reward."""


class _Scoring:
    """What goes wrong while some states are scored."""

    def __init__(self, states: Sequence[Any]) -> None:
        self.states = states
        self.failed: list[list[_Failed]] = [[] for _ in states]

    def note(self, among: Sequence[Any], failed: _Failed) -> None:
        """Of those states that are `among`; of all, if a rubric made others of them."""
        known = [at for at, state in enumerate(self.states) if any(state is one for one in among)]
        for at in known or range(len(self.states)):
            self.failed[at].append(failed)


_scoring: ContextVar[_Scoring | None] = ContextVar("_scoring", default=None)
_noting: ContextVar[Note | None] = ContextVar("_noting", default=None)
"""Of the reward function that runs."""


async def scored(env: Any, state: Any) -> RewardResult:
    """Raises what a reward function raised."""
    [result] = await _scored(env, [state], alone=_each_has_functions(env.rubric))
    if isinstance(result, BaseException):
        raise result
    return result


async def scored_together(env: Any, states: Sequence[Any]) -> list[RewardResult | BaseException]:
    """What each earned, or what its functions raised."""
    return await _scored(env, states, alone=False)


def compares(env: Any) -> bool:
    """The rubric has functions that want the whole group."""
    members = getattr(env, "envs", None) or ()
    return any(_is_group_func(leaf, func) for leaf in leaves(env.rubric) for func in _functions(leaf)) or any(
        compares(member) for member in members
    )


def leaves(rubric: Any) -> Iterator[Any]:
    """The rubrics that have functions of their own, in the order in which they score."""
    parts = getattr(rubric, "rubrics", None)
    if parts is None and isinstance(members := getattr(rubric, "env_map", None), dict):
        parts = [member.rubric for member in members.values()]
    if parts is None:
        yield rubric
    else:
        for part in parts:
            yield from leaves(part)


def watch(rubric_type: Any) -> None:
    """Have every rubric tell what its functions raise. Raises TypeError for a release that scores in another way."""
    if getattr(rubric_type, "_watched", False):
        return
    one, many = (getattr(rubric_type, f"_call_{kind}_reward_func", None) for kind in ("individual", "group"))
    if one is None or many is None:
        raise TypeError(
            "this release of verifiers calls reward functions in a way that Flash does not know, so their errors would "
            "count as 0: name a release from 0.1.9 to 0.3.1 in `[environment] pip`"
        )

    @functools.wraps(one)
    async def call_one(self: Any, func: Any, state: Any, *others: Any, **more: Any) -> Any:
        return await one(self, _watched(self, func, [state], _number), state, *others, **more)

    @functools.wraps(many)
    async def call_many(self: Any, func: Any, states: Any, *others: Any, **more: Any) -> Any:
        return await many(self, _watched(self, func, states, _numbers), states, *others, **more)

    rubric_type._call_individual_reward_func, rubric_type._call_group_reward_func = call_one, call_many
    rubric_type._watched = True
    logging.getLogger("verifiers").addHandler(_Swallowed())


class _Swallowed(logging.Handler):
    """MathRubric itself catches that its workers died, and gives 0."""

    def emit(self, record: logging.LogRecord) -> None:
        note, error = _noting.get(), sys.exc_info()[1]
        if note and record.name.endswith("MathRubric") and error is not None and not isinstance(error, TimeoutError):
            note(error)


async def _scored(env: Any, states: Sequence[Any], *, alone: bool) -> list[RewardResult | BaseException]:
    rubric, scoring = env.rubric, _Scoring(states)
    token = _scoring.set(scoring)
    try:
        if not getattr(env, "score_rollouts", True):
            for state in states:
                await rubric.dummy_score_rollout(state)
        elif alone:
            await rubric.score_rollout(states[0])
        else:
            await rubric.score_group(list(states))
    finally:
        _scoring.reset(token)
        if hasattr(rubric, "cleanup"):
            for state in states:
                await rubric.cleanup(state)
    return [_result(env, state, failed) for state, failed in zip(states, scoring.failed, strict=True)]


def _result(env: Any, state: Any, failed: Sequence[_Failed]) -> RewardResult | BaseException:
    if error := next((one.error for one in failed if one.counts), None):
        return error
    reasons = {one.name: f"{type(one.error).__name__}: {one.error}" for one in failed}
    weights = {
        _name(func): weight
        for leaf in leaves(env.rubric)
        for func, weight in zip(_functions(leaf), _weights(leaf), strict=True)
    }
    metrics = [
        RewardMetric(name, reason=reasons[name]) if name in reasons
        else RewardMetric(name, score=float(value), weight=weights.get(name))
        for name, value in (state.get("metrics") or {}).items()
    ]  # fmt: skip
    threshold = getattr(env, "pass_threshold", None)
    return RewardResult(score=float(state["reward"]), threshold=threshold, metrics=tuple(metrics))


def _watched(rubric: Any, func: Any, states: Sequence[Any], checked: Callable[[Any, str, int], None]) -> Any:
    """The function, by its own name and signature, which notes what goes wrong."""
    scoring = _scoring.get()
    if scoring is None:
        return func
    name = _name(func)

    def note(error: BaseException) -> None:
        scoring.note(states, _Failed(name, error, _weight(rubric, func) != 0))

    @functools.wraps(func)
    async def call(*args: Any, **given: Any) -> Any:
        token = _noting.set(note)
        try:
            result = func(*args, **given)
            result = await result if inspect.isawaitable(result) else result
            checked(result, name, len(states))
        except Exception as error:
            note(error)
            raise
        finally:
            _noting.reset(token)
        return result

    return call


def _number(value: Any, name: str, _: int = 1) -> None:
    """Raises NoRewardError for what the package would count as 0, and for NaN and infinity."""
    try:
        sound = math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        sound = False
    if not sound:
        raise NoRewardError(f"{name} gave {value!r:.100}, wanted a finite number")


def _numbers(values: Any, name: str, count: int) -> None:
    if not hasattr(values, "__len__") or not hasattr(values, "__getitem__") or isinstance(values, str | dict):
        raise NoRewardError(f"{name} gave {values!r:.100}, wanted a list of {count} numbers, one for each rollout")
    if len(values) != count:
        raise NoRewardError(f"{name} gave {len(values)} numbers for {count} rollouts, wanted one for each")
    for value in values:
        _number(value, name)


def _each_has_functions(rubric: Any) -> bool:
    """Else the package refuses to score a rollout alone, and scores it as a group of one."""
    return all(_functions(leaf) or not _is_packages(leaf.score_rollout) for leaf in leaves(rubric))


def _is_packages(method: Any) -> bool:
    return str(getattr(method, "__module__", "")).partition(".")[0] == "verifiers"


def _is_group_func(leaf: Any, func: Any) -> bool:
    return bool(leaf._is_group_func(func))


def _functions(leaf: Any) -> list[Any]:
    return list(leaf._get_reward_funcs())


def _weights(leaf: Any) -> list[float]:
    return list(leaf._get_reward_weights())


def _weight(leaf: Any, func: Any) -> float:
    """0 where every mention of the function has weight 0."""
    found = [weight for known, weight in zip(_functions(leaf), _weights(leaf), strict=True) if known == func]
    return next((weight for weight in found if weight), 0.0 if found else 1.0)


def _name(func: Any) -> str:
    return str(getattr(func, "__name__", None) or repr(func))
