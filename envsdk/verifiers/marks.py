"""Decorators that mark an environment's or a rubric's methods, and finding what they marked."""

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, TypeVar, cast, overload

Mark = Literal["stop", "cleanup", "teardown", "setup"]

F = TypeVar("F", bound=Callable[..., Any])


@overload
def stop(func: F, priority: int = 0) -> F: ...
@overload
def stop(func: None = None, priority: int = 0) -> Callable[[F], F]: ...
def stop(func: F | None = None, priority: int = 0) -> F | Callable[[F], F]:
    """A condition of the state under which the rollout ends; higher priorities are asked first, then by name."""
    return _mark("stop", func, priority)


@overload
def cleanup(func: F, priority: int = 0) -> F: ...
@overload
def cleanup(func: None = None, priority: int = 0) -> Callable[[F], F]: ...
def cleanup(func: F | None = None, priority: int = 0) -> F | Callable[[F], F]:
    """Called with the state when the rollout has ended, however it did."""
    return _mark("cleanup", func, priority)


@overload
def teardown(func: F, priority: int = 0) -> F: ...
@overload
def teardown(func: None = None, priority: int = 0) -> Callable[[F], F]: ...
def teardown(func: F | None = None, priority: int = 0) -> F | Callable[[F], F]:
    """Called when the environment is no longer used."""
    return _mark("teardown", func, priority)


@overload
def setup(func: F, priority: int = 0) -> F: ...
@overload
def setup(func: None = None, priority: int = 0) -> Callable[[F], F]: ...
def setup(func: F | None = None, priority: int = 0) -> F | Callable[[F], F]:
    """Called with the state before the first turn, after `setup_state`."""
    return _mark("setup", func, priority)


def marked(thing: object, mark: Mark) -> list[Callable[..., Any]]:
    """The methods that carry a mark, in the order in which they are called."""
    return [getattr(thing, name) for name in _names(cast("Any", type(thing)), mark)]


@lru_cache(maxsize=1024)
def _names(kind: type, mark: Mark) -> tuple[str, ...]:
    """Of a class, once: looking through its members takes longer than scoring an answer."""
    members = inspect.getmembers_static(kind)
    found = {name: getattr(_function(member), f"_vf_{mark}", None) for name, member in members}
    priorities = {name: int(priority) for name, priority in found.items() if priority is not None}
    return tuple(sorted(priorities, key=lambda name: (-priorities[name], name)))


def _mark(mark: Mark, func: F | None, priority: int) -> F | Callable[[F], F]:
    def decorate(method: F) -> F:
        setattr(method, f"_vf_{mark}", priority)
        return method

    return decorate if func is None else decorate(func)


def _function(found: Any) -> Any:
    return getattr(found, "__func__", found)
