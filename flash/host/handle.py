"""A loaded environment, as the scorer and the command line use it."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from statistics import median_low
from typing import Any, Self

import msgspec

from flash.contracts.values import Example, Fault, Verdict
from flash.host.episodes import BESIDE, KINDS, Episodes, sound
from flash.host.link import Ended, Link, printable
from flash.host.spec import Described, HostSpec, Limits, LoadFailed

__all__ = ["Described", "Host", "HostSpec", "Limits", "LoadFailed", "Page"]

_LARGEST_CPU_S = 1_000_000
_QUICK_US = 1_000
_SHARED_S = 0.02
"""Answers that take less are busy, not waiting for somebody: a fork for each would only be more to do."""
_PROBED = 8
"""How many groups share a fork before it is known how long answers take."""


@dataclass(frozen=True)
class Page:
    """Some rows of a split."""

    examples: list[Example]
    total: int
    """Rows of the whole split."""


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a fork tells about a dataset: one of these."""

    total: int | None = None
    marks: list[tuple[int, int]] | None = None
    """Where rows of a file begin, for whoever asks for more of them."""
    example: Example | None = None
    fault: Fault | None = None


_decode_examples = msgspec.msgpack.Decoder(list[Example]).decode
_decode_row = msgspec.msgpack.Decoder(tuple[int, _Row]).decode
_decode_verdict = msgspec.msgpack.Decoder(tuple[int, Verdict]).decode


class Host:
    """One environment with its params, in a process of its own that is started again when it is brought down."""

    def __init__(self, spec: HostSpec, link: Link, load_timeout_s: float) -> None:
        self.spec = spec
        self._link, self._load_timeout_s = link, load_timeout_s
        self._slots = asyncio.Semaphore(link.about.slots)
        self._calls = asyncio.Semaphore(link.about.max_score_concurrency)
        """Of episodes, whatever group they are of."""
        self._restarting, self._quarantine = asyncio.Lock(), asyncio.Lock()
        self.reading = asyncio.Lock()
        """For whoever asks for the pages of a split that may have to be read whole."""
        self._closed = False
        self._shares: bool | None = None
        """Groups share a fork; None: nobody knows yet how long their answers take."""
        self._known: dict[str, tuple[int, list[tuple[int, int]]]] = {}
        """Of splits that are files of lines: how many rows, and where they begin; nobody looks through them twice."""
        self._quick = False
        """The last group's answers took so little that threads would have cost more than they saved."""

    @classmethod
    async def start(cls, spec: HostSpec, *, load_timeout_s: float = 120.0) -> Self:
        """Raises LoadFailed, an EnvironmentFault whose `fault` has the author's frames."""
        return cls(spec, await Link.start(spec, load_timeout_s=load_timeout_s), load_timeout_s)

    @property
    def about(self) -> Described:
        return self._link.about

    async def rows(self, split: str, start: int, count: int, prompt_text: str, *, deadline_s: float = 60.0) -> Page:
        """Rows of a split as the policy is to see them. Raises LoadFailed naming the row that cannot be rendered."""
        args = {"split": split, "start": start, "count": count, "prompt_text": prompt_text}
        told = await self._dataset("rows", {**args, "known": self._known.get(split)}, deadline_s)
        examples = [row.example for row in told if row.example is not None]
        total = _total(told)
        if [example.index for example in examples] != list(range(start, min(start + count, total))):
            raise LoadFailed(Fault(kind="load-failed", message="the host told other rows than it was asked for"))
        return Page(examples, total)

    async def pages(
        self, split: str, number: int, size: int, prompt_text: str, *, deadline_s: float = 60.0
    ) -> AsyncGenerator[Page, None]:
        """That page of a split; of one that has to be read whole, all pages, each as soon as it is there.

        Raises LoadFailed naming the row that cannot be rendered.
        """
        args = {"split": split, "start": number * size, "count": size, "prompt_text": prompt_text, "at_once": True}
        total, examples = 0, list[Example]()
        async with aclosing(self._told("rows", {**args, "known": self._known.get(split)}, deadline_s)) as told:
            async for row in told:
                total = row.total or total
                if row.example is not None:
                    examples.append(row.example)
                if examples and (len(examples) == size or examples[-1].index == total - 1):
                    yield _page(examples, size, total)
                    examples = []
        if examples:
            raise LoadFailed(Fault(kind="load-failed", message="the host told fewer rows than there are"))

    async def every_page(self, split: str, size: int, prompt_text: str) -> AsyncGenerator[Page, None]:
        """All of a split, page after page. Raises LoadFailed."""
        number, is_last = 0, False
        while not is_last:
            async with aclosing(self.pages(split, number, size, prompt_text)) as pages:
                async for page in pages:
                    number += 1
                    is_last = page.examples[-1].index == page.total - 1
                    yield page

    async def first_rows(
        self, split: str, count: int, size: int, prompt_text: str
    ) -> AsyncGenerator[list[Example], None]:
        """The first so many rows of a split, `size` at a time, for whoever takes long over them. Raises LoadFailed.

        What has to be read whole is read once, and what is wanted of it kept, packed, until it is taken.
        """
        kept: deque[bytes] = deque()
        if count > size and not self.has_places_of(split):
            async with aclosing(self.pages(split, 0, size, prompt_text)) as pages:
                async for page in pages:
                    kept.append(msgspec.msgpack.encode(page.examples))
                    if len(kept) * size >= count:
                        break
        for start in range(0, count, size):
            wanted = min(size, count - start)
            if kept:
                yield _decode_examples(kept.popleft())[:wanted]
            else:
                yield (await self.rows(split, start, wanted, prompt_text)).examples

    def has_places_of(self, split: str) -> bool:
        """It is a file of lines, and known where they begin: a page of it is read without the others."""
        return split in self._known

    async def check(self, split: str, prompt_text: str, *, deadline_s: float = 60.0) -> int:
        """Render every row of a split and say how many there are. Raises LoadFailed naming the first bad one."""
        return _total(await self._dataset("check", {"split": split, "prompt_text": prompt_text}, deadline_s))

    async def score(
        self,
        example: Example,
        texts: Sequence[str],
        *,
        deadline_s: float,
        thinking: bool = False,
        prompt_opened: bool = False,
        truncated: Sequence[str] = (),
    ) -> list[Verdict]:
        """A verdict for each answer to one example, in order; what goes wrong is a fault of its own answer only.

        `deadline_s` is for each answer. With `thinking` the author gets answers that know their thoughts;
        `prompt_opened` says that the prompt itself ended inside a `<think>`, `truncated` which answers were cut.
        """
        if not texts:
            return []
        given = {
            "example": example,
            "thinking": thinking,
            "prompt_opened": prompt_opened,
            "truncated": truncated,
            "at_once": 1 if self._quick else max(1, self.about.max_score_concurrency // self.about.slots),
        }
        if self.about.isolation == "call":
            return list(await asyncio.gather(*(self._score_alone(given, text, deadline_s) for text in texts)))
        score = self._score_undisturbed if self.about.scores_groups else self._score_once
        verdicts, ended = await score(given, texts, deadline_s)
        self._quick = ended.status == "ok" and ended.busy_us < _QUICK_US * len(texts)
        guilty = self.about.scores_groups or (len(texts) == 1 and ended.status not in BESIDE)
        if guilty:  # nobody else to blame, or nobody who could be told apart
            return [verdicts.get(at) or _faulted(ended, len(texts)) for at in range(len(texts))]
        rest = [at for at in range(len(texts)) if at not in verdicts]
        alone = await asyncio.gather(*(self._score_alone(given, texts[at], deadline_s) for at in rest))
        verdicts.update(zip(rest, alone, strict=True))
        return [verdicts[at] for at in range(len(texts))]

    async def score_groups(
        self,
        groups: Sequence[tuple[Example, Sequence[str]]],
        *,
        deadline_s: float,
        thinking: bool = False,
        truncated: Sequence[str] = (),
    ) -> list[list[Verdict]]:
        """`score` for each of several examples and its answers.

        Groups whose answers take little share a fork, which would have cost most of the time; what a group leaves
        behind in the environment's memory is then seen by the groups after it.
        """
        score = partial(self.score, deadline_s=deadline_s, thinking=thinking, truncated=truncated)
        if self._shares is None and len(groups) > _PROBED:
            again = partial(self.score_groups, deadline_s=deadline_s, thinking=thinking, truncated=truncated)
            return await again(groups[:_PROBED]) + await again(groups[_PROBED:])
        if len(groups) < 2 or self._shares is False or self.about.isolation == "call":
            return list(await asyncio.gather(*(score(*group) for group in groups)))
        given = {
            "groups": [{"example": example, "texts": texts} for example, texts in groups],
            "thinking": thinking,
            "prompt_opened": False,
            "truncated": truncated,
            "at_once": 1,
        }
        num_texts = sum(len(texts) for _, texts in groups)
        largest = max(len(texts) for _, texts in groups)
        deadline = deadline_s * largest if self.about.scores_groups else deadline_s
        verdicts, ended = await self._ask_once("score_groups", given, num_texts, deadline)
        if ended.status == "ok" and verdicts:
            self._shares = median_low(verdict.took_s for verdict in verdicts.values()) < _SHARED_S
        found: list[list[Verdict]] = []
        first = 0
        for example, texts in groups:
            places = range(first, first + len(texts))
            if all(at in verdicts for at in places):
                found.append([verdicts[at] for at in places])
            else:  # whoever is to blame, this group was cut short
                found.append(await score(example, texts))
            first += len(texts)
        return found

    async def episodes(
        self, example: Example, count: int, *, prompt_text: str, deadline_s: float, thinking: bool = False
    ) -> Episodes:
        """Open the episodes of a group: a fork holds them until it is closed. Raises LoadFailed.

        Waits while as many groups are open as `about.slots` allows. `deadline_s` is for each call of the author's.
        """
        at_once = min(self.about.max_score_concurrency, count)
        args = {"example": example, "prompt_text": prompt_text, "thinking": thinking, "at_once": at_once}
        cpu_s = min(self.spec.limits.cpu_s * count * ((example.max_turns or 1) + 1), _LARGEST_CPU_S)
        await self._slots.acquire()
        try:
            link = await self._living()
        except BaseException:
            self._slots.release()
            raise
        episodes = Episodes(
            lambda hear: link.converse("episodes", args, hear, cpu_s=cpu_s),
            count,
            deadline_s=deadline_s,
            calls=self._calls,
            compared=self.about.scores_groups,
        )
        episodes.ended.add_done_callback(lambda _: self._slots.release())
        return episodes

    def private_bytes(self) -> int:
        """Memory that its processes take for themselves; a page that forks share counts once for each."""
        return self._link.private_bytes()

    async def close(self) -> None:
        self._closed = True
        async with self._restarting:
            await self._link.close()

    async def _score_alone(self, given: Mapping[str, Any], text: str, deadline_s: float) -> Verdict:
        """One answer in a fork of its own."""
        verdicts, ended = await self._score_undisturbed(given, [text], deadline_s)
        return verdicts.get(0) or _faulted(ended, 1)

    async def _score_undisturbed(
        self, given: Mapping[str, Any], texts: Sequence[str], deadline_s: float
    ) -> tuple[dict[int, Verdict], Ended]:
        """If the fork ends for what may be somebody else's doing, once more with a host to itself."""
        verdicts, ended = await self._score_once(given, texts, deadline_s)
        if ended.status not in BESIDE or len(verdicts) == len(texts):
            return verdicts, ended
        async with self._quarantine:
            link = await Link.start(self.spec, load_timeout_s=self._load_timeout_s)
            try:
                return await self._score_once(given, texts, deadline_s, link)
            finally:
                await link.close()

    async def _score_once(
        self, given: Mapping[str, Any], texts: Sequence[str], deadline_s: float, link: Link | None = None
    ) -> tuple[dict[int, Verdict], Ended]:
        # A comparing environment scores all in one call, which gets the time of all.
        deadline_s *= len(texts) if self.about.scores_groups else 1
        return await self._ask_once("score", {**given, "texts": texts}, len(texts), deadline_s, link)

    async def _ask_once(
        self, method: str, args: Mapping[str, Any], num_texts: int, deadline_s: float, link: Link | None = None
    ) -> tuple[dict[int, Verdict], Ended]:
        verdicts: dict[int, Verdict] = {}

        def hear(payload: bytes, output: str) -> None:
            if (heard := _verdict(payload, output)) and 0 <= heard[0] < num_texts:
                verdicts.setdefault(*heard)

        cpu_s = self.spec.limits.cpu_s * num_texts
        if link is not None:
            return verdicts, await link.ask(method, args, hear, deadline_s=deadline_s, cpu_s=cpu_s)
        async with self._slots:
            link = await self._living()
            return verdicts, await link.ask(method, args, hear, deadline_s=deadline_s, cpu_s=cpu_s)

    async def _dataset(self, method: str, args: Mapping[str, Any], deadline_s: float) -> list[_Row]:
        return [row async for row in self._told(method, args, deadline_s)]

    async def _told(self, method: str, args: Mapping[str, Any], deadline_s: float) -> AsyncGenerator[_Row, None]:
        """What a fork tells about a split. Raises LoadFailed at its end, if something was wrong."""
        told: asyncio.Queue[_Row | None] = asyncio.Queue()

        def hear(payload: bytes, _: str) -> None:
            try:
                told.put_nowait(_decode_row(payload)[1])
            except msgspec.DecodeError as error:
                told.put_nowait(_Row(fault=Fault(kind="load-failed", message=f"a row cannot be read: {error}")))

        fault = None
        async with self._slots:
            link = await self._living()
            # The first answer comes after the whole file was read.
            patience_s = max(deadline_s, self._load_timeout_s)
            asked = asyncio.create_task(link.ask(method, args, hear, deadline_s=patience_s, cpu_s=3_600))
            asked.add_done_callback(lambda _: told.put_nowait(None))
            try:
                while (row := await told.get()) is not None:
                    fault = fault or row.fault
                    if row.marks and row.total:
                        self._known[args["split"]] = row.total, row.marks
                    yield row
                ended = await asked
            finally:
                asked.cancel()
        if fault:
            raise LoadFailed(fault)
        if ended.status != "ok":
            found = f"rendering split {args['split']!r}: {ended.detail or ended.status}"
            raise LoadFailed(Fault(kind="load-failed", message=found))

    async def _living(self) -> Link:
        """The link, a new one if the old has died."""
        if self._link.lost_because:
            async with self._restarting:
                if self._closed:
                    raise LoadFailed(Fault(kind="load-failed", message="the host is closed"))
                if self._link.lost_because:
                    await self._link.close()
                    self._link = await Link.start(self.spec, load_timeout_s=self._load_timeout_s)
        return self._link


def _page(examples: list[Example], size: int, total: int) -> Page:
    first = examples[0].index
    if first % size or [example.index for example in examples] != list(range(first, min(first + size, total))):
        raise LoadFailed(Fault(kind="load-failed", message="the host told other rows than it was asked for"))
    return Page(examples, total)


def _verdict(payload: bytes, output: str) -> tuple[int, Verdict] | None:
    """The second check of a result: the first was in the author's own process. None: it is no verdict."""
    try:
        at, verdict = _decode_verdict(payload)
    except (msgspec.DecodeError, RecursionError):
        return None
    checked = sound(verdict, output)
    return None if checked is None else (at, checked)


def _faulted(ended: Ended, num_texts: int) -> Verdict:
    detail = ended.detail or "its answer cannot be read"
    if num_texts > 1:
        detail += f", while it scored {num_texts} answers in one call"
    return Verdict(
        fault=Fault(kind=KINDS[ended.status], message=f"score_response: {detail}"), output=printable(ended.output)
    )


def _total(told: list[_Row]) -> int:
    total = next((row.total for row in told if row.total is not None), None)
    if total is None:
        raise LoadFailed(Fault(kind="load-failed", message="the host did not say how many rows there are"))
    return total
