"""Plays an environment's rows against an endpoint.

Many questions are in flight; answers are scored in the host, together where they are quick, and told as rows. Episodes
of several turns are played and scored group by group, as in a run.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cli import episodes
from cli.endpoint import Answer, Endpoint, NoAnswer
from cli.episodes import Said
from cli.results import Row, judged
from flash.contracts.values import Example, Fault, Message
from flash.host import Host

PAGE = 1_024
"""Rows that are asked of the host at once."""
BATCH, BATCH_CHARS = 256, 1 << 20
"""What is scored together, at most."""
LINGER_S = 0.05
"""How long an answer waits for others to be scored with."""
SCORINGS = 8
"""Batches under way: a slow answer keeps only its own batch waiting."""


@dataclass(frozen=True)
class Plan:
    """What is to be played."""

    model: str
    split: str
    examples: int
    """The first so many rows of the split."""
    rollouts: int = 1
    """Of each example."""
    concurrency: int = 32
    """Questions in flight."""
    prompt_text: str = ""
    thinking: bool = False
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """What goes into every question beside model and messages."""
    seed: int = 42
    deadline_s: float = 60.0
    """For each answer that is scored."""
    done: Mapping[int, int] = field(default_factory=dict)
    """Which rollouts of an example are there already, as bits."""

    def seed_of(self, index: int, rollout: int) -> int:
        """Another for each rollout: a server that honours seeds would else say the same each time."""
        return (self.seed * 1_000_003 + index * self.rollouts + rollout) % 2**31

    def missing(self, index: int, *, whole: bool) -> list[int]:
        """Which rollouts of an example are still to be played; with `whole` all, if any is missing."""
        done = self.done.get(index, 0)
        found = [rollout for rollout in range(self.rollouts) if not done >> rollout & 1]
        return list(range(self.rollouts)) if whole and found else found


@dataclass(eq=False)
class _Group:
    """Answers to one example that are scored in one call."""

    example: Example
    missing: int
    """How many are still to come."""
    rows: list[Row] = field(default_factory=list)


class Player:
    """One evaluation of one environment."""

    def __init__(self, host: Host, endpoint: Endpoint, plan: Plan, on_rows: Callable[[Sequence[Row]], object]) -> None:
        """`on_rows` takes rows as soon as they are judged."""
        self._host, self._endpoint, self._plan, self._on_rows = host, endpoint, plan, on_rows
        self._groups: AsyncIterator[list[tuple[_Group, int]]] = self._to_play()
        self._jobs: deque[tuple[_Group, int]] = deque()
        self._paging = asyncio.Lock()
        self._answered: deque[_Group] = deque()
        self._news = asyncio.Event()
        self._unscored = asyncio.Semaphore(max(4 * plan.concurrency, 4 * BATCH))
        """Answers that may wait to be scored before no more are asked for."""
        self._asking = asyncio.Semaphore(plan.concurrency)
        self._over = False

    async def play(self) -> None:
        """Returns when every row was given to `on_rows`. Raises EndpointError."""
        try:
            if self._host.about.multi_turn:
                async with asyncio.TaskGroup() as playing:
                    for _ in range(-(-self._plan.concurrency // self._plan.rollouts)):
                        playing.create_task(self._play_on())
                return
            async with asyncio.TaskGroup() as scoring:
                scoring.create_task(self._score_batches(scoring))
                await self._ask_all()
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def _ask_all(self) -> None:
        try:
            async with asyncio.TaskGroup() as asking:
                for _ in range(self._plan.concurrency):
                    asking.create_task(self._ask_on())
        finally:
            self._over = True
            self._news.set()

    async def _ask_on(self) -> None:
        while (job := await self._next()) is not None:
            group, rollout = job
            await self._unscored.acquire()
            group.rows.append(await self._asked(group.example, rollout))
            group.missing -= 1
            if not group.missing:
                self._answered.append(group)
                self._news.set()

    async def _asked(self, example: Example, rollout: int) -> Row:
        began = time.perf_counter()
        try:
            answer = await self._answer(example, rollout, example.messages)
        except NoAnswer as error:
            fault = Fault(kind="generation-failed", message=str(error))
            row = Row(index=example.index, example=example.id, rollout=rollout, prompt=example.messages)
            return msgspec.structs.replace(row, fault=fault, finish_reason="fault")
        return Row(
            index=example.index,
            example=example.id,
            rollout=rollout,
            prompt=example.messages,
            completion=self._said(answer),
            finish_reason=answer.finish_reason,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            generate_s=round(time.perf_counter() - began, 6),
        )

    async def _answer(self, example: Example, rollout: int, messages: Sequence[Message]) -> Answer:
        plan = self._plan
        sampling = {**plan.sampling, "seed": plan.seed_of(example.index, rollout)}
        return await self._endpoint.complete(plan.model, messages, sampling)

    def _said(self, answer: Answer) -> str:
        """As the policy would have written it, where the server has told the thoughts apart."""
        thought = f"<think>{answer.reasoning}</think>" if answer.reasoning and self._plan.thinking else ""
        return thought + answer.text

    async def _play_on(self) -> None:
        while (job := await self._next()) is not None:
            group, rollout = job
            rollouts = [rollout]
            while self._jobs and self._jobs[0][0] is group:
                rollouts.append(self._jobs.popleft()[1])
            self._on_rows(await self._episodes(group.example, rollouts))

    async def _episodes(self, example: Example, rollouts: Sequence[int]) -> list[Row]:
        """Episodes of one example, which one process of the environment holds until they are scored."""
        plan = self._plan
        answers: list[list[Answer]] = [[] for _ in rollouts]
        waited_s = [0.0] * len(rollouts)

        async def say(place: int, messages: list[Message]) -> Said:
            async with self._asking:
                began = time.perf_counter()
                answer = await self._answer(example, rollouts[place], messages)
                waited_s[place] += time.perf_counter() - began
            answers[place].append(answer)
            return Said(self._said(answer), answer.finish_reason == "length", answer.completion_tokens or None)

        played = await episodes.play(
            self._host, example, len(rollouts), say,
            prompt_text=plan.prompt_text, deadline_s=plan.deadline_s, thinking=plan.thinking,
        )  # fmt: skip
        found = []
        for place, episode in enumerate(played):
            said, fault = answers[place], episode.verdict.fault
            cut = any(answer.finish_reason == "length" for answer in said)
            row = Row(
                index=example.index,
                example=example.id,
                rollout=rollouts[place],
                prompt=example.messages,
                messages=episode.messages,
                completion=self._said(said[-1]) if said else "",
                finish_reason="fault" if fault and fault.kind == "generation-failed" else "length" if cut else "stop",
                prompt_tokens=sum(answer.prompt_tokens for answer in said),
                completion_tokens=sum(answer.completion_tokens for answer in said),
                generate_s=round(waited_s[place], 6),
            )
            found.append(judged(row, episode.verdict))
        return found

    async def _next(self) -> tuple[_Group, int] | None:
        while not self._jobs:
            async with self._paging:
                if self._jobs:
                    break
                if (more := await anext(self._groups, None)) is None:
                    return None
                self._jobs.extend(more)
        return self._jobs.popleft()

    async def _to_play(self) -> AsyncIterator[list[tuple[_Group, int]]]:
        """The questions of one page of rows after another."""
        plan, about = self._plan, self._host.about
        together = about.scores_groups
        async for page in self._host.first_rows(plan.split, plan.examples, PAGE, plan.prompt_text):
            found: list[tuple[_Group, int]] = []
            for example in page:
                rollouts = plan.missing(example.index, whole=together)
                group = _Group(example, len(rollouts))
                shared = together or about.multi_turn
                found += [(group if shared else _Group(example, 1), rollout) for rollout in rollouts]
            yield found

    async def _score_batches(self, scoring: asyncio.TaskGroup) -> None:
        room = asyncio.Semaphore(SCORINGS)

        async def score(groups: list[_Group]) -> None:
            try:
                await self._score(groups)
            finally:
                room.release()

        while True:
            if not self._answered:
                if self._over:
                    return
                self._news.clear()
                await self._news.wait()
                continue
            if len(self._answered) < BATCH and not self._over:
                await asyncio.sleep(LINGER_S)
            await room.acquire()
            scoring.create_task(score(self._taken()))

    def _taken(self) -> list[_Group]:
        groups: list[_Group] = []
        chars = 0
        while self._answered and len(groups) < BATCH and chars < BATCH_CHARS:
            groups.append(self._answered.popleft())
            chars += sum(len(row.completion) for row in groups[-1].rows)
        return groups

    async def _score(self, groups: Sequence[_Group]) -> None:
        plan = self._plan
        asked = [(group, [row for row in group.rows if row.fault is None]) for group in groups]
        asked = [(group, rows) for group, rows in asked if rows]
        verdicts = await self._host.score_groups(
            [(group.example, [row.completion for row in rows]) for group, rows in asked],
            deadline_s=plan.deadline_s,
            thinking=plan.thinking,
            truncated=[row.completion for _, rows in asked for row in rows if row.finish_reason == "length"],
        )
        told = [row for group in groups for row in group.rows if row.fault is not None]
        for (_, rows), found in zip(asked, verdicts, strict=True):
            told += [judged(row, verdict) for row, verdict in zip(rows, found, strict=True)]
        self._on_rows(told)
        for _ in told:
            self._unscored.release()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What happened first: the rest was given up because of it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
