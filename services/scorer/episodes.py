"""The episodes that this scorer holds: opened for a rollout service, and kept while it renews their lease."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from flash.contracts.base import Done
from flash.contracts.hosting import (
    EpisodeClose,
    EpisodeRenew,
    EpisodeScore,
    EpisodesScored,
    EpisodesStarted,
    EpisodeStart,
    EpisodeStep,
    HeldRequest,
    Stepped,
)
from flash.contracts.spec import RunSpec
from flash.errors import NotFound
from flash.host import Episodes, EpisodesLost, Host, InstallFailed, LoadFailed

R = TypeVar("R")

READY_WITHIN_S = 20.0
"""Who asks for episodes hears within this time that they are open, or that it is too early: the environment is still
being loaded, or its packages installed."""

log = structlog.get_logger()


@dataclass(eq=False)
class _Held:
    """Episodes of one group, in one fork."""

    episodes: Episodes
    using: AsyncExitStack
    """Their host."""
    lapses: asyncio.TimerHandle
    steps: dict[tuple[int, int], asyncio.Task[Stepped]] = field(default_factory=dict)
    """By episode and turn."""
    scored: asyncio.Task[EpisodesScored] | None = None


class Holder:
    """At most `most` groups at a time."""

    def __init__(
        self,
        host_of: Callable[[RunSpec], AbstractAsyncContextManager[Host]],
        *,
        replica: str,
        most: int,
        lease_s: float,
        deadline_s: float,
        new_id: Callable[[], str],
    ) -> None:
        self._host_of, self._replica, self._new_id = host_of, replica, new_id
        self._most, self._lease_s, self._deadline_s = most, lease_s, deadline_s
        self._held: dict[str, _Held] = {}
        self._opening = 0
        self._dropping: set[asyncio.Task[None]] = set()

    async def start(self, request: EpisodeStart, spec: RunSpec) -> EpisodesStarted:
        open = sum(not held.episodes.ended.done() for held in self._held.values())
        if open + self._opening >= self._most:
            return EpisodesStarted()
        self._opening += 1
        try:
            async with AsyncExitStack() as using:
                return await self._open(request, spec, using)
        except InstallFailed:
            raise  # it could be installed where the run was planned: again, perhaps elsewhere
        except LoadFailed as failed:
            return EpisodesStarted(fault=failed.fault)
        except EpisodesLost as lost:
            raise NotFound(str(lost)) from lost
        finally:
            self._opening -= 1

    async def step(self, request: EpisodeStep) -> Stepped:
        held = self._renewed(request)
        which = (request.index, request.turn)
        if which not in held.steps:
            acting = held.episodes.step(
                request.index, request.text, request.prompt_opened, request.truncated, request.tokens
            )
            held.steps[which] = asyncio.create_task(acting)
        return await _of_living(held.steps[which])

    async def score(self, request: EpisodeScore) -> EpisodesScored:
        held = self._renewed(request)
        if held.scored is None:
            held.scored = asyncio.create_task(self._score(held, request))
        return await _of_living(held.scored)

    async def renew(self, request: EpisodeRenew) -> Done:
        if self._renewed(request).episodes.ended.done():
            raise NotFound("the process that held the episodes has ended")
        return Done()

    async def give_up(self, request: EpisodeClose) -> Done:
        """Asked twice, or of episodes that are gone, it does nothing."""
        if request.episodes in self._held:
            await self._drop(request.episodes)
        return Done()

    async def close(self) -> None:
        for id in list(self._held):
            await self._drop(id)
        await asyncio.gather(*self._dropping)

    async def _open(self, request: EpisodeStart, spec: RunSpec, using: AsyncExitStack) -> EpisodesStarted:
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                host = await using.enter_async_context(self._host_of(spec))
        except TimeoutError:
            return EpisodesStarted()
        if host.about.isolation == "call" and request.count > 1:
            return EpisodesStarted(alone=True)
        episodes = await host.episodes(
            request.example,
            request.count,
            prompt_text=spec.prompt_text,
            deadline_s=self._deadline_s,
            thinking=spec.thinking,
        )
        using.push_async_callback(episodes.close)
        openings = await episodes.start()
        id = self._new_id()
        self._held[id] = _Held(episodes, using.pop_all(), self._lease(id))
        return EpisodesStarted(replica=self._replica, episodes=id, openings=openings, compared=episodes.compared)

    async def _score(self, held: _Held, request: EpisodeScore) -> EpisodesScored:
        verdicts = await held.episodes.score(request.indices)
        await held.episodes.close()  # its answer stays for as long as the lease
        return EpisodesScored(verdicts=verdicts)

    def _renewed(self, request: HeldRequest) -> _Held:
        held = self._held.get(request.episodes)
        if held is None:
            raise NotFound(f"{self._replica} holds no episodes {request.episodes}: they begin anew")
        held.lapses.cancel()
        held.lapses = self._lease(request.episodes)
        return held

    def _lease(self, id: str) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._lease_s, self._lapse, id)

    def _lapse(self, id: str) -> None:
        if self._held[id].scored is None:
            log.info("episodes.lapsed", episodes=id, after_s=self._lease_s)
        dropping = asyncio.create_task(self._drop(id))
        self._dropping.add(dropping)
        dropping.add_done_callback(self._dropping.discard)

    async def _drop(self, id: str) -> None:
        held = self._held.pop(id)
        held.lapses.cancel()
        await held.using.aclose()


async def _of_living(work: Awaitable[R]) -> R:
    """What a shared task gives, also to those who ask again. Raises NotFound where the fork has died."""
    try:
        return await asyncio.shield(work)
    except EpisodesLost as lost:
        raise NotFound(str(lost)) from lost
