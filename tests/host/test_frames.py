"""Nonsense from a host: it is killed for it, and nothing else happens."""

import asyncio
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as some

from flash.host.link import Ended, Link

WORDS = some.sampled_from(["answer", "ended", "ready", "failed", "question", ""])
VALUES = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-(2**63), 2**64 - 1)
    | some.floats()
    | some.text()
    | some.binary()
    | WORDS,
    lambda inner: some.lists(inner, max_size=8) | some.dictionaries(some.text(), inner, max_size=3),
    max_leaves=12,
)
FRAMES = some.lists(VALUES, max_size=8).map(msgspec.msgpack.encode)


class Process:
    pid, returncode = 0, None


class Cell:
    """Counts how often it is told to kill."""

    killed = 0

    def kill(self) -> None:
        self.killed += 1

    def killed_for_memory(self) -> int:
        return 0


async def heard(data: bytes, pieces: int, *, asked: int = 7) -> tuple[Cell, asyncio.Future[Ended]]:
    """What becomes of a link with one open question that hears this."""
    cell: Any = Cell()
    process: Any = Process()
    link = Link(process, cell, None)
    link._ready.set_result(None)  # type: ignore[arg-type]
    ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
    link._calls[asked] = _call(ended)
    step = max(1, len(data) // pieces)
    for start in range(0, len(data), step):
        if cell.killed:
            break  # nobody listens to the dead
        link.data_received(data[start : start + step])
    return cell, ended


def _call(ended: asyncio.Future[Ended]) -> Any:
    from flash.host.link import _Call

    return _Call(lambda payload, output: None, 1.0, ended, None)


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body


@settings(max_examples=400, deadline=None)
@given(frames=some.lists(FRAMES, min_size=1, max_size=4), pieces=some.integers(1, 9))
def test_a_frame_that_nobody_expects_takes_its_host(frames: list[bytes], pieces: int) -> None:
    cell, ended = asyncio.run(heard(b"".join(map(framed, frames)), pieces))

    assert cell.killed == 1
    assert not ended.done()


@settings(max_examples=400, deadline=None)
@given(data=some.binary(max_size=400), pieces=some.integers(1, 9))
def test_bytes_at_random_are_waited_for_or_taken_for_what_they_are(data: bytes, pieces: int) -> None:
    cell, ended = asyncio.run(heard(data, pieces))

    assert cell.killed in (0, 1)
    assert not ended.done()


def test_a_frame_of_the_right_types_about_the_right_question_is_taken() -> None:
    """Else the two above would prove nothing."""
    body = msgspec.msgpack.encode(["ended", 7, "ok", "", b"", 0, 0])

    cell, ended = asyncio.run(heard(framed(body), 3))

    assert cell.killed == 0
    assert ended.result().status == "ok"


@settings(max_examples=100, deadline=None)
@given(wrong=VALUES, at=some.integers(1, 6))
def test_a_field_of_another_type_leaves_no_question_unanswered_for_ever(wrong: Any, at: int) -> None:
    fields: list[Any] = ["ended", 7, "ok", "", b"", 0, 0]
    fields[at] = wrong

    cell, ended = asyncio.run(heard(framed(msgspec.msgpack.encode(fields)), 1))

    assert ended.done() != bool(cell.killed)
