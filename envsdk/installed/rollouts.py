"""A rollout of the real package, suspended at each of its model calls until our policy has answered.

call = await rollout.begin()             # what the policy is to answer; None: the rollout is over
call = await rollout.answer(reply)
state = await rollout.ended()
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from envsdk.examples import Message

_TOO_LONG = "this model's maximum context length is reached"
"""The package tells a prompt that is too long from other refusals by the words of the endpoint."""


@dataclass
class Call:
    """The package asks for the policy's next turn."""

    messages: list[Message]
    """In OpenAI's form."""
    tools: list[dict[str, Any]]
    reply: "asyncio.Future[Reply]" = field(repr=False)


@dataclass(frozen=True)
class Reply:
    """What the policy answers."""

    message: Message
    """In OpenAI's form."""
    truncated: bool = False


class Rollout:
    """One rollout on the running loop."""

    def __init__(self, env: Any, row: Mapping[str, Any]) -> None:
        self._env, self._row = env, row
        self._calls: asyncio.Queue[Call] = asyncio.Queue()
        self._open: Call | None = None
        self._over = False
        """The policy answers no more."""
        self._task: asyncio.Task[Any] | None = None

    async def begin(self) -> Call | None:
        """Raises what the environment raises."""
        return await self._next()

    async def answer(self, reply: Reply) -> Call | None:
        """What the policy is to answer next. Raises what the environment raises."""
        call, self._open = self._open, None
        if call is not None and not call.reply.done():
            call.reply.set_result(reply)
        elif not self._playing().done():
            raise ValueError("the environment did not wait for the policy's answer, and asked for another")
        return await self._next()

    async def ended(self) -> Any:
        """The state, when the rollout is over. One that still waits for the policy ends as if no room were left."""
        self._over = True
        if self._open is not None and not self._open.reply.done():
            self._open.reply.set_exception(_too_long())
        return _settled(await self._playing())

    async def abandon(self) -> None:
        """Nobody wants to know how it ends."""
        self.drop()
        await asyncio.gather(self._playing(), return_exceptions=True)

    def drop(self) -> None:
        """`abandon`, without waiting until it is gone."""
        if self._task is not None:
            self._task.cancel()

    async def create(self, *, messages: Sequence[Any], tools: Sequence[Any] | None = None, **_: Any) -> Any:
        """The package's call of the model."""
        if self._over:
            raise _too_long()
        if self._open is not None and not self._open.reply.done():
            raise ValueError("the environment asks the policy twice at once; policies are trained on one conversation")
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._open = Call([_plain(message) for message in messages], [dict(tool) for tool in tools or ()], reply)
        self._calls.put_nowait(self._open)
        return _completion(await reply)

    def _playing(self) -> "asyncio.Task[Any]":
        self._task = self._task or asyncio.create_task(self._play())
        return self._task

    async def _play(self) -> Any:
        """The state, or the error that the rollout ended with: SystemExit in a task would end the loop."""
        try:
            return await self._env.rollout(self._row, _client(self), "policy", {})
        except (Exception, SystemExit) as error:
            return error

    async def _next(self) -> Call | None:
        asked, playing = asyncio.ensure_future(self._calls.get()), self._playing()
        await asyncio.wait((asked, playing), return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            return asked.result()
        asked.cancel()
        _settled(playing.result())
        return None


def _settled(found: Any) -> Any:
    """The state. Raises the error that ended the rollout, saying what it came from."""
    if isinstance(found, BaseException):
        raise found
    error = found.get("error")
    if not isinstance(error, BaseException):
        return found
    if not str(error) and error.__cause__ is not None:
        error.args = (f"{type(error.__cause__).__name__}: {error.__cause__}",)
    raise error


def _client(rollout: Rollout) -> Any:
    """What the package takes for a client: since 0.1.11 one of its own, before shaped like openai's."""
    chat = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=rollout.create)))
    kind = _client_type()
    return chat if kind is None else kind(chat)


def warm() -> None:
    """Import what a rollout needs: once, and not in every fork."""
    _client_type()
    _completion(Reply({"role": "assistant", "content": "ok"})).choices[0].message.model_dump()


@lru_cache(maxsize=1)
def _client_type() -> Any:
    """The package's client for chat completions, without its way over HTTP; None for a release that has none.

    How a message is written for a model, and a reply read, is the package's own business.
    """
    try:
        from verifiers.clients import OpenAIChatCompletionsClient  # type: ignore[import-not-found,unused-ignore]
        from verifiers.errors import OverlongPromptError  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return None
    import openai  # type: ignore[import-not-found,unused-ignore]

    class Suspended(OpenAIChatCompletionsClient):  # type: ignore[misc,unused-ignore]
        async def get_native_response(
            self, prompt: Any, model: str, sampling_args: Any, tools: Any = None, **_: Any
        ) -> Any:
            try:
                return await self.client.chat.completions.create(messages=prompt, tools=tools)
            except openai.BadRequestError as error:
                raise OverlongPromptError(str(error)) from error

    return Suspended


def _completion(reply: Reply) -> Any:
    from openai.types.chat import ChatCompletion  # type: ignore[import-not-found,unused-ignore]

    calls = bool(reply.message.get("tool_calls"))
    ending = "length" if reply.truncated else "tool_calls" if calls else "stop"
    choice = {"index": 0, "finish_reason": ending, "message": reply.message, "logprobs": None}
    found = ChatCompletion.model_validate(
        {
            "id": "policy", "object": "chat.completion", "created": int(time.time()), "model": "policy",
            "choices": [choice],
        }
    )  # fmt: skip
    if not reply.message.get("content") and not calls:
        found.choices[0].message.content = _Empty()
    return found


class _Empty(str):
    """An answer without text. The package would take it for a model that failed, and nobody would learn from it."""

    def __bool__(self) -> bool:
        return True


def _too_long() -> Exception:
    import openai  # type: ignore[import-not-found,unused-ignore]

    refused: Any = SimpleNamespace(text=_TOO_LONG, status_code=400, headers={}, request=None)
    found: Exception = openai.BadRequestError(_TOO_LONG, response=refused, body=None)
    return found


def _plain(message: Any) -> Message:
    """Without the fields that are null: a dataset's columns and the package's messages have them everywhere."""
    found = message if isinstance(message, Mapping) else message.model_dump()
    return {str(key): value for key, value in found.items() if value is not None or key == "content"}
