"""Plays groups whose examples take several turns: the policy acts here, the environment answers from a scorer.

What the policy wrote is appended as it was drawn, and never encoded again; what the environment adds has mask 0.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog

from flash.bus import Bus
from flash.contracts.base import Request
from flash.contracts.groups import GroupRequested
from flash.contracts.hosting import (
    EpisodeClose,
    EpisodeRenew,
    EpisodeScore,
    EpisodesScored,
    EpisodesStarted,
    EpisodeStart,
    EpisodeStep,
    Opening,
    Stepped,
)
from flash.contracts.packing import pack_floats, pack_ids
from flash.contracts.spec import RunSpec, SamplingSpec
from flash.contracts.values import Fault, Message, Rollout, Turn, Verdict
from flash.errors import BusError, FlashError, NobodyAnswers, NotFound, Unanswered
from services.rollout.engines import Adapter, Engine, GenerationFailed, Sample, SampleRequest
from services.rollout.prompts import Prompt, room
from services.rollout.seeds import rollout_seed
from services.rollout.thoughts import thinking_tokens

RESTARTS = 3
"""How often a lost episode begins anew before it is a fault."""
MISSED_RENEWALS = 2
"""How many renewals in a row may go unanswered: their scorer may only be busy."""
AGAIN_S = 0.5
"""How soon a scorer is asked again that had no room, or was not there."""

Render = Callable[[list[Message], bool], Prompt]
"""From messages, and whether the run thinks."""
Follow = Callable[[Sequence[Message], Sequence[Message], int, bool], Prompt]
"""From the messages that the policy answered, those that follow, its last token, and whether the run thinks."""

log = structlog.get_logger()


@dataclass(frozen=True)
class PlayedGroup:
    """G rollouts with their verdicts."""

    prompt: Prompt
    """How all of them begin."""
    rollouts: list[Rollout]
    verdicts: list[Verdict]


class EpisodesGone(FlashError):
    """The scorer or the process that held the episodes is no more."""

    def __init__(self, reason: str, *, by_themselves: bool) -> None:
        super().__init__(reason)
        self.by_themselves = by_themselves
        """One of them may have brought it down, so each is better played alone."""


@dataclass
class _Episode:
    """One rollout, as far as it has come. T tokens follow the prompt."""

    index: int
    """In its group."""
    prompt: Prompt = field(default_factory=lambda: Prompt(()))
    ids_T: list[int] = field(default_factory=list)
    logp_T: list[float] = field(default_factory=list)
    mask_T: bytearray = field(default_factory=bytearray)
    messages: list[Message] = field(default_factory=list)
    """The transcript, the opening included."""
    num_opening: int = 0
    turns: list[Turn] = field(default_factory=list)
    finish_reason: Literal["stop", "length"] = "stop"
    thought: int | None = None
    """Tokens of its thoughts so far; None where the run does not think."""
    verdict: Verdict | None = None

    def shown(self) -> tuple[int, ...]:
        return (*self.prompt.ids, *self.ids_T)

    def act(self, sample: Sample) -> None:
        self.ids_T += sample.token_ids
        self.logp_T += sample.logprobs
        self.mask_T += b"\x01" * len(sample.token_ids)
        self.finish_reason = sample.finish_reason

    def hear(self, ids: Sequence[int]) -> None:
        self.ids_T += ids
        self.logp_T += [0.0] * len(ids)
        self.mask_T += b"\x00" * len(ids)


class EpisodePlayer:
    """Plays groups, all rollouts of each side by side; the engine batches what they ask for."""

    def __init__(
        self,
        bus: Bus,
        engine: Engine,
        render: Render,
        follow: Follow,
        *,
        step_timeout_s: float,
        renew_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._bus, self._engine, self._render, self._follow = bus, engine, render, follow
        self._step_timeout_s, self._renew_s, self._clock = step_timeout_s, renew_s, clock
        self._closing: set[asyncio.Task[None]] = set()

    async def play(
        self, event: GroupRequested, spec: RunSpec, sampling: SamplingSpec, adapter: Adapter | None
    ) -> PlayedGroup:
        group = _Group(event, spec, sampling, adapter)
        episodes = await self._begin(group, list(range(sampling.group_size)), RESTARTS)
        return played(sorted(episodes, key=lambda episode: episode.index))

    async def _begin(self, group: "_Group", indices: list[int], restarts: int) -> list[_Episode]:
        """Every episode with its verdict. One that is lost begins anew from its first turn."""
        episodes = {index: _Episode(index) for index in indices}
        try:
            alone = not await self._together(group, list(episodes.values()))
        except EpisodesGone as gone:
            lost = [index for index, episode in episodes.items() if episode.verdict is None]
            log.info(
                "episodes.lost", run_id=group.event.run_id, group_id=group.event.group_id, episodes=len(lost),
                reason=str(gone),
            )  # fmt: skip
            if not restarts:
                fault = Fault(kind="crashed", message=f"lost {RESTARTS + 1} times, the last time because {gone}")
                for index in lost:
                    episodes[index].verdict = Verdict(fault=fault)
                return list(episodes.values())
            alone, restarts = gone.by_themselves, restarts - 1
        else:
            lost = indices if alone else []
        parts = [[index] for index in lost] if alone else [lost] if lost else []
        again = await asyncio.gather(*(self._begin(group, part, restarts) for part in parts))
        done = [episode for episode in episodes.values() if episode.verdict is not None]
        return [*done, *(episode for part in again for episode in part)]

    async def _together(self, group: "_Group", episodes: list[_Episode]) -> bool:
        """Play episodes in one process of the environment. False: it wants each by itself. Raises EpisodesGone."""
        held = await self._start(group, len(episodes))
        if held.fault is not None:
            for episode in episodes:
                episode.verdict = Verdict(fault=held.fault)
            return True
        if held.alone:
            return False
        playing = asyncio.create_task(self._play(group, held, episodes))
        renewing = asyncio.create_task(self._renew(held))
        try:
            await asyncio.wait((playing, renewing), return_when=asyncio.FIRST_COMPLETED)
            await (playing if playing.done() else renewing)
        except BaseException:  # cancelled too: the run has ended, or we leave
            closing = asyncio.create_task(self._close(held))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            raise
        finally:
            playing.cancel()
            renewing.cancel()
            await asyncio.gather(playing, renewing, return_exceptions=True)
        return True

    async def _play(self, group: "_Group", held: EpisodesStarted, episodes: list[_Episode]) -> None:
        """Each turn by turn, and then the score of all that got through."""
        await _side_by_side(
            self._episode(group, held, place, episode, opening)
            for place, (episode, opening) in enumerate(zip(episodes, held.openings, strict=True))
        )
        through = [place for place, episode in enumerate(episodes) if episode.verdict is None]
        if not through:
            return
        asked = EpisodeScore(replica=held.replica, episodes=held.episodes, indices=through)
        scored: EpisodesScored = await self._ask(held, asked)
        for place, verdict in zip(through, scored.verdicts, strict=True):
            episodes[place].verdict = verdict
        if None in scored.verdicts:
            raise EpisodesGone("their process died while it scored", by_themselves=not held.compared)

    async def _episode(
        self, group: "_Group", held: EpisodesStarted, place: int, episode: _Episode, opening: Opening
    ) -> None:
        """Generate, append, step; until it is done, or no room is left. What fails is its verdict."""
        if opening.fault is not None:
            episode.verdict = Verdict(fault=opening.fault)
            return
        thinking = group.spec.thinking
        episode.messages, episode.num_opening = list(opening.messages), len(opening.messages)
        try:
            episode.prompt = await asyncio.to_thread(self._render, episode.messages, thinking)
            opened = episode.prompt.opened
            while True:
                began, turn = self._clock(), len(episode.turns)
                [sample] = await self._engine.sample(group.request(episode.shown(), episode.index, turn))
                episode.act(sample)
                if thinking:
                    closed = sample.finish_reason == "stop"
                    thought = thinking_tokens(sample.token_ids, episode.prompt.marks, opened=opened, closed=closed)
                    episode.thought = (episode.thought or 0) + thought
                step = EpisodeStep(
                    replica=held.replica, episodes=held.episodes, index=place, turn=turn, text=sample.text,
                    prompt_opened=opened, truncated=sample.finish_reason == "length", tokens=len(sample.token_ids),
                )  # fmt: skip
                stepped: Stepped = await self._ask(held, step)
                asked = list(episode.messages)
                episode.messages += [{"role": "assistant", "content": sample.text}, *stepped.messages]
                episode.turns.append(
                    Turn(
                        tokens=len(sample.token_ids), finish_reason=sample.finish_reason,
                        took_s=round(self._clock() - began, 4),
                    )
                )  # fmt: skip
                if stepped.fault is not None:
                    episode.verdict = Verdict(fault=stepped.fault)
                if stepped.done or sample.finish_reason == "length":
                    return
                last_id = sample.token_ids[-1]
                more = await asyncio.to_thread(self._follow, asked, stepped.messages, last_id, thinking)
                if len(episode.shown()) + len(more.ids) >= group.longest(self._engine.context):
                    episode.finish_reason = "length"
                    return
                episode.hear(more.ids)
                opened = more.opened
        except (GenerationFailed, ValueError) as error:
            episode.verdict = Verdict(fault=Fault(kind="generation-failed", message=str(error)))

    async def _start(self, group: "_Group", count: int) -> EpisodesStarted:
        """Waits for a scorer, and for room on it. Raises EpisodesGone."""
        request = EpisodeStart(
            run_id=group.spec.run_id, example=group.event.example, count=count, scope=group.event.scope
        )
        while True:
            try:
                held: EpisodesStarted = await self._bus.ask(request, self._step_timeout_s)
            except NobodyAnswers:
                continue
            except (NotFound, BusError) as error:
                raise EpisodesGone(str(error), by_themselves=False) from error
            if held.episodes or held.alone or held.fault is not None:
                return held
            await asyncio.sleep(AGAIN_S)

    async def _ask(self, held: EpisodesStarted, request: Request) -> Any:
        """Asks again now and then: an answer may be lost on its way, and who is asked twice does it once."""
        end = asyncio.get_running_loop().time() + self._step_timeout_s
        while True:
            try:
                return await self._bus.ask(request, self._renew_s)
            except NotFound as error:
                raise EpisodesGone(str(error), by_themselves=not held.compared) from error
            except Unanswered as error:
                if asyncio.get_running_loop().time() > end:
                    raise EpisodesGone(str(error), by_themselves=False) from error
            except BusError as error:
                raise EpisodesGone(str(error), by_themselves=False) from error

    async def _close(self, held: EpisodesStarted) -> None:
        """Their scorer has room for others before the lease ends. If it does not hear of it, the lease ends."""
        with suppress(FlashError):
            await self._bus.ask(EpisodeClose(replica=held.replica, episodes=held.episodes), self._renew_s)

    async def _renew(self, held: EpisodesStarted) -> None:
        """For as long as they are played. Raises EpisodesGone when their scorer has died."""
        renew, missed = EpisodeRenew(replica=held.replica, episodes=held.episodes), 0
        while True:
            await asyncio.sleep(self._renew_s)
            try:
                await self._bus.ask(renew, self._renew_s)
                missed = 0
            except NotFound as error:
                raise EpisodesGone(str(error), by_themselves=not held.compared) from error
            except NobodyAnswers as error:
                raise EpisodesGone(str(error), by_themselves=False) from error
            except BusError as error:
                missed += 1
                if missed > MISSED_RENEWALS:
                    raise EpisodesGone(str(error), by_themselves=False) from error


@dataclass(frozen=True)
class _Group:
    """What stays the same for all of a group's turns."""

    event: GroupRequested
    spec: RunSpec
    sampling: SamplingSpec
    adapter: Adapter | None

    def longest(self, context: int) -> int:
        """Tokens an episode may have."""
        return min(context, self.spec.train.max_length) if self.spec.train else context

    def request(self, shown: tuple[int, ...], rollout: int, turn: int) -> SampleRequest:
        event, sampling = self.event, self.sampling
        seed = rollout_seed(self.spec.seed, event.scope, event.step, event.group, rollout, turn)
        return SampleRequest(
            prompt_ids=shown, seeds=(seed,), temperature=sampling.temperature,
            max_tokens=room(self.spec, sampling, len(shown)), stop=tuple(sampling.stop_sequences), adapter=self.adapter,
        )  # fmt: skip


def played(episodes: Sequence[_Episode]) -> PlayedGroup:
    """The group as facts tell it: one prompt, which is as much as the openings have in common, and what follows it."""
    prompts = [episode.prompt.ids for episode in episodes if episode.prompt.ids] or [()]
    shared = _common(prompts)
    opened = any(episode.prompt.opened for episode in episodes)
    verdicts = [episode.verdict for episode in episodes if episode.verdict is not None]
    rollouts = [
        _rollout(episode, len(shared), verdict.fault) for episode, verdict in zip(episodes, verdicts, strict=True)
    ]
    return PlayedGroup(Prompt(shared, opened), rollouts, verdicts)


def _rollout(episode: _Episode, num_shared: int, fault: Fault | None) -> Rollout:
    own = episode.prompt.ids[num_shared:]
    failed = fault is not None and (fault.kind == "generation-failed" or not episode.ids_T)
    said = [message for message in episode.messages[episode.num_opening :] if message["role"] == "assistant"]
    return Rollout(
        token_ids=pack_ids((*own, *episode.ids_T)),
        logprobs=pack_floats((*[0.0] * len(own), *episode.logp_T)),
        mask=bytes(len(own)) + bytes(episode.mask_T),
        text=said[-1]["content"] if said else "",
        finish_reason="fault" if failed else episode.finish_reason,
        messages=episode.messages[episode.num_opening :],
        turns=episode.turns,
        thinking_tokens=episode.thought,
        fault=fault if failed else None,
    )


def _common(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """How all of them begin: what the least and the greatest have in common."""
    least, greatest = min(prompts), max(prompts)
    same = (a == b for a, b in zip(least, greatest, strict=False))
    return least[: next((at for at, alike in enumerate(same) if not alike), len(least))]


async def _side_by_side(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All of it; the first error ends the rest, and is raised by itself."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for each in work:
                tasks.create_task(each)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
