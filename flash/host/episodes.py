"""The episodes of a group in the fork that holds them, as the scorer sees them."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from flash.contracts.hosting import Opening, Stepped
from flash.contracts.values import Fault, FaultKind, Verdict
from flash.errors import EnvironmentFault
from flash.host.link import Ended, OnAnswer, Talk

KINDS: dict[str, FaultKind] = {
    "ok": "invalid-result",
    "timeout": "timed-out",
    "cpu": "limit-exceeded",
    "crash": "crashed",
    "exit": "crashed",
    "oversize": "limit-exceeded",
    "memory": "limit-exceeded",
    "lost": "crashed",
}
"""What becomes of a fork, as a kind of fault."""

_LARGEST_REWARD = 1e9
_MOST_OUTPUT_CHARS = 64 << 10
_OWN_FAULT = ("cpu", "oversize")
"""Ends that an episode would come to again: where it was alone, nobody else is to blame."""
BESIDE = ("lost", "memory")
"""Ends that somebody else may have brought about: the memory of a host is that of all who work in it."""

R = TypeVar("R")


class EpisodesLost(EnvironmentFault):
    """The fork has died, and with it what the episodes had come to."""


class _Scored(msgspec.Struct, frozen=True):
    verdicts: list[Verdict] = []
    fault: Fault | None = None


_Told = tuple[int, msgspec.Raw]
_decode_told = msgspec.msgpack.Decoder(_Told).decode
_encode = msgspec.msgpack.Encoder().encode


class Episodes:
    """Some episodes of one example. What the author's code raises is a fault of its own episode; what takes the fork
    down loses all."""

    def __init__(
        self,
        converse: Callable[[OnAnswer], Talk],
        count: int,
        *,
        deadline_s: float,
        calls: asyncio.Semaphore,
        compared: bool,
    ) -> None:
        """`calls` bounds how many of the author's calls run at a time."""
        self._count, self._deadline_s, self._slots, self.compared = count, deadline_s, calls, compared
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[tuple[bytes, str]]] = {}
        self._outputs = [""] * count
        self._talk = converse(self._hear)
        self._talk.ended.add_done_callback(lambda _: self._lose())

    @property
    def ended(self) -> asyncio.Future[Ended]:
        """Done when nothing of the fork is left."""
        return self._talk.ended

    async def start(self) -> list[Opening]:
        """The opening of each episode. Raises EpisodesLost."""
        begun = (self._start(index) for index in range(self._count))
        openings = await asyncio.gather(*begun, return_exceptions=True)
        # They open alike: where one took too long and was ended, the others were not faster.
        slow = next((opening for opening in openings if isinstance(opening, Opening) and opening.fault), None)
        found = [slow if slow and isinstance(opening, EpisodesLost) else opening for opening in openings]
        for opening in found:
            if isinstance(opening, BaseException):
                raise opening
        return [opening for opening in found if isinstance(opening, Opening)]

    async def step(
        self, index: int, text: str, prompt_opened: bool = False, truncated: bool = False, tokens: int | None = None
    ) -> Stepped:
        """What follows an action of the policy. Raises EpisodesLost."""
        args = {
            "index": index, "text": text, "prompt_opened": prompt_opened, "truncated": truncated, "tokens": tokens,
        }  # fmt: skip
        try:
            stepped, output = await self._ask("step", args, Stepped, "step_episode")
        except _Guilty as guilty:
            return Stepped(fault=guilty.fault)
        self._print([index], output)
        return msgspec.structs.replace(stepped, done=stepped.done or stepped.fault is not None)

    async def score(self, indices: Sequence[int]) -> list[Verdict | None]:
        """A verdict for each; None where the fork died before there was one."""
        if self.compared:
            return await self._score(indices)
        each = await asyncio.gather(*(self._score([index]) for index in indices))
        return [verdict for [verdict] in each]

    async def close(self) -> None:
        await self._talk.hang_up()

    async def _start(self, index: int) -> Opening:
        try:
            return (await self._ask("start", {"index": index}, Opening, "start_episode"))[0]
        except _Guilty as guilty:
            return Opening(fault=guilty.fault)

    async def _score(self, indices: Sequence[int]) -> list[Verdict | None]:
        """Of one episode, or of all that are compared, which get the time of all."""
        deadline_s = self._deadline_s * len(indices)
        try:
            scored, output = await self._ask("score", {"indices": indices}, _Scored, "score_episode", deadline_s)
        except _Guilty as guilty:
            return [Verdict(fault=guilty.fault, output=self._outputs[index]) for index in indices]
        except EpisodesLost:
            return [None] * len(indices)
        self._print(indices, output)
        if len(scored.verdicts) != len(indices):
            fault = scored.fault or Fault(kind="invalid-result", message="score_episode: its answer cannot be read")
            return [Verdict(fault=fault, output=self._outputs[index]) for index in indices]
        unsound = Fault(kind="invalid-result", message="score_episode: its answer is no reward")
        verdicts = zip(indices, scored.verdicts, strict=True)
        return [
            sound(verdict, self._outputs[index]) or Verdict(fault=unsound, output=self._outputs[index])
            for index, verdict in verdicts
        ]

    async def _ask(
        self, method: str, args: dict[str, Any], kind: type[R], hook: str, deadline_s: float = 0.0
    ) -> tuple[R, str]:
        """The fork's answer, and what was printed before it."""
        deadline_s = deadline_s or self._deadline_s
        async with self._slots:
            if self.ended.done():
                raise self._loss()
            number = next(self._numbers)
            answer: asyncio.Future[tuple[bytes, str]] = asyncio.get_running_loop().create_future()
            self._answers[number] = answer
            self._talk.say(number, method, args)
            try:
                async with asyncio.timeout(deadline_s):
                    payload, output = await answer
            except TimeoutError:
                del self._answers[number]
                await self.close()
                fault = Fault(kind="timed-out", message=f"{hook}: no answer within {deadline_s:g} s")
                raise _Guilty(fault) from None
        try:
            return msgspec.msgpack.decode(payload, type=kind), output
        except (msgspec.DecodeError, RecursionError) as error:
            found = f"{hook}: its answer cannot be read: {error}"
            raise _Guilty(Fault(kind="invalid-result", message=found)) from error

    def _hear(self, payload: bytes, output: str) -> None:
        """What nobody asked for, or nobody can read, is for nobody: its call ends with the deadline."""
        try:
            number, told = _decode_told(payload)
        except msgspec.DecodeError:
            return
        answer = self._answers.pop(number, None)
        if answer and not answer.done():
            answer.set_result((bytes(told), output))

    def _lose(self) -> None:
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(self._loss())

    def _loss(self) -> Exception:
        ended = self.ended.result()
        found = f"the process that played the episodes ended: {ended.detail or 'it was told to'}"
        if self._count == 1 and ended.status in _OWN_FAULT:
            return _Guilty(Fault(kind=KINDS[ended.status], message=found))
        return EpisodesLost(found)

    def _print(self, indices: Sequence[int], output: str) -> None:
        for index in indices:
            self._outputs[index] = (self._outputs[index] + output)[:_MOST_OUTPUT_CHARS]


class _Guilty(Exception):
    """One call is to blame for what happened, and it is known which."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def sound(verdict: Verdict, output: str) -> Verdict | None:
    """The second check of a result: the first was in the author's own process. None: it is no verdict."""
    if verdict.fault is not None:
        return Verdict(fault=verdict.fault, output=output, took_s=verdict.took_s)
    if verdict.reward is None or not -_LARGEST_REWARD <= verdict.reward <= _LARGEST_REWARD:
        return None
    return msgspec.structs.replace(verdict, output=output)
