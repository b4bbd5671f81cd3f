"""Requests and replies as messages, the same on both buses."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from typing import Any, cast

import msgspec

from flash import errors
from flash.bus import Admit
from flash.contracts.base import Request
from flash.errors import BusError, FlashError, NobodyAnswers, Refused
from flash.logs import Log

TOKEN = "flash-token"
"""Header: the token of whoever asks."""
ERROR = "flash-error"
"""Header: the class of the error whose text is the body."""
LAST = "flash-last"
"""Header: nothing follows."""

TOLD_S = 1.0
"""How long it may take to tell somebody that we leave."""

Answer = Callable[[Any], Any]

log = Log()


async def replies(
    kind: type[Request], answer: Answer, body: bytes, headers: Mapping[str, str], admit: Admit | None
) -> AsyncGenerator[tuple[bytes, dict[str, str]], None]:
    """What goes back to the asker, message by message, the last one marked; errors are messages too."""
    try:
        try:
            request = msgspec.msgpack.decode(body, type=kind)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise Refused(f"{kind.name} cannot be read: {error}") from error
        if admit:
            await admit(request, headers.get(TOKEN, ""))
        if not kind.streams:
            yield msgspec.msgpack.encode(await answer(request)), {LAST: "1"}
            return
        async with aclosing(cast("Any", answer(request))) as parts:
            async for part in parts:
                yield msgspec.msgpack.encode(part), {}
        yield b"", {LAST: "1"}
    except asyncio.CancelledError:  # we leave
        text = f"the {kind.service} that took {kind.name} has left before it answered: ask again"
        yield text.encode(), {ERROR: NobodyAnswers.__name__, LAST: "1"}
        raise
    except FlashError as error:
        yield str(error).encode(), {ERROR: type(error).__name__, LAST: "1"}
    except Exception as error:
        log.exception("request.failed", request=kind.name)
        text = f"{kind.service} could not answer {kind.name}: {type(error).__name__}: {error}"
        yield text.encode(), {ERROR: "BusError", LAST: "1"}


async def let_go(running: Collection[asyncio.Task[None]], grace_s: float) -> None:
    """Let requests in hand finish for `grace_s`; whoever asked the rest is told that we leave."""
    if not running:
        return
    _, late = await asyncio.wait(running, timeout=grace_s)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=TOLD_S)


def asking(token: str) -> dict[str, str]:
    """The headers of a request."""
    return {TOKEN: token} if token else {}


def read_reply(kind: type[Request], body: bytes, headers: Mapping[str, str]) -> Any:
    """One reply; None for the empty one that only ends a stream. Raises what the replica raised."""
    if name := headers.get(ERROR):
        raise _error(name, body.decode())
    if kind.streams and not body:
        return None
    return msgspec.msgpack.decode(body, type=kind.reply)


def is_last(headers: Mapping[str, str]) -> bool:
    return LAST in headers


def nobody_answers(request: Request, timeout_s: float) -> str:
    return f"no {request.service} took {request.name} within {timeout_s:g} s: is one running? `flash ps` shows them"


def _error(name: str, text: str) -> FlashError:
    kind = getattr(errors, name, BusError)
    is_ours = isinstance(kind, type) and issubclass(kind, FlashError)
    return cast("FlashError", kind(text) if is_ours else BusError(text))
