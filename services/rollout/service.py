"""Plays groups, and answers whoever wants to talk to a policy."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from flash import chaos
from flash.bus import Bus, EveryReplica, Shared
from flash.contracts.base import Event, Request, Token
from flash.contracts.groups import GroupCancelled, GroupGenerated, GroupRequested, GroupScored
from flash.contracts.keys import dataset_key, spec_key
from flash.contracts.packing import pack_floats, pack_ids
from flash.contracts.preparing import DatasetMeasure, RowLengths
from flash.contracts.requests import Generate, GeneratedText
from flash.contracts.runs import ENDS, AttemptEvent
from flash.contracts.spec import RunSpec, SamplingSpec
from flash.contracts.steps import StepDiverged, StepFinished
from flash.contracts.values import Example, Fault, PolicyRef, Rollout, Verdict
from flash.errors import FlashError, Refused
from flash.store import Store
from services.rollout.adapters import Adapters
from services.rollout.engines import Adapter, Engine, GenerationFailed, Sample, SampleRequest
from services.rollout.episodes import EpisodePlayer, Follow, PlayedGroup, Render
from services.rollout.prompts import Prompt, room
from services.rollout.runs import RunKey, Runs, run_key
from services.rollout.seeds import rollout_seed
from services.rollout.settings import Settings
from services.rollout.thoughts import thinking_tokens

Measure = Callable[[Sequence[Example], RunSpec], RowLengths]
"""How long rows are for the pool's model."""

log = structlog.get_logger()


class Player:
    """One replica of a pool: those that have the same base model."""

    def __init__(
        self,
        bus: Bus,
        store: Store,
        engine: Engine,
        render: Render,
        adapters: Adapters,
        settings: Settings,
        pool: Token,
        clock: Callable[[], float],
        follow: Follow,
        measure: Measure,
    ) -> None:
        self._bus = bus
        self._store = store
        self._engine = engine
        self._render = render
        self._adapters = adapters
        self._settings = settings
        self._pool = pool
        self._clock = clock
        self._measure = measure
        self._runs = Runs()
        self._specs: dict[str, RunSpec] = {}
        self._playing: dict[asyncio.Future[Any], tuple[RunKey, int]] = {}
        """Run and attempt of each group in hand."""
        self._prefetching: set[asyncio.Task[None]] = set()
        self._episodes = EpisodePlayer(
            bus, engine, render, follow, step_timeout_s=settings.step_timeout_s, renew_s=settings.episode_renew_s,
            clock=clock,
        )  # fmt: skip

    def subscriptions(self) -> tuple[Shared | EveryReplica, ...]:
        return (
            EveryReplica((StepFinished, StepDiverged), self.on_policy),
            EveryReplica(ENDS, self.on_run_ended),
            Shared(
                name=f"rollout-{self._pool}",
                event=GroupRequested,
                handler=self.on_group_requested,
                where={"pool": self._pool},
                slots=self._settings.slots,
                give_up=self.give_up,
            ),
        )

    def answers(self) -> Mapping[type[Request], Callable[[Any], Any]]:
        return {Generate: self.on_generate, DatasetMeasure: self.on_dataset_measure}

    async def on_policy(self, event: StepFinished | StepDiverged) -> None:
        self._runs.told(run_key(event), event.policy)
        if event.run_id in self._specs:  # we play it: the next group shall find its adapter here
            prefetching = asyncio.create_task(self._prefetch(event))
            self._prefetching.add(prefetching)
            prefetching.add_done_callback(self._prefetching.discard)

    async def on_run_ended(self, event: AttemptEvent) -> None:
        self._runs.heard(run_key(event), over=event.attempt)
        self._specs.pop(event.run_id, None)
        for playing, (run, attempt) in self._playing.items():
            if run == run_key(event) and attempt <= event.attempt:
                playing.cancel()

    async def on_group_requested(self, event: GroupRequested) -> list[Event]:
        """Play the group, unless its attempt is over or somebody has played it."""
        if self._runs.is_finished(event):
            return []
        if await self._is_over(event):
            return [_cancelled(event)]
        if (told := await self._told(event)) is not None:
            return told
        chaos.point("before-generate")
        began = self._clock()
        spec = (await self._spec(event.run_id)).of(event.scope)
        policy = self._runs.policy_for(event)
        try:
            played = await self._while_wanted(event, self._played(event, spec, policy))
        except RunIsOver:
            return [_cancelled(event)]
        chaos.point("generated")
        took_s = round(self._clock() - began, 4)
        prompt, rollouts = played.prompt, played.rollouts
        tokens = sum(sum(rollout.mask) for rollout in rollouts)
        log.info(
            "group.generated", run_id=event.run_id, group_id=event.group_id, policy_version=policy.version,
            tokens=tokens, took_s=took_s,
        )  # fmt: skip
        return [
            GroupGenerated(
                org=event.org, run_id=event.run_id, attempt=event.attempt, scope=event.scope, step=event.step,
                group=event.group, example=event.example, policy=policy, prompt_ids=pack_ids(prompt.ids),
                prompt_opened=prompt.opened, rollouts=rollouts, verdicts=played.verdicts,
                replica=self._settings.replica, took_s=took_s,
            )
        ]  # fmt: skip

    def give_up(self, event: GroupRequested, reason: str) -> list[Event]:
        """Each rollout of the group is a fault. Of a run whose spec could not be read, one stands for all."""
        spec = self._specs.get(event.run_id)
        return [given_up(event, reason, _sampling(spec.of(event.scope)).group_size if spec else 1)]

    async def on_generate(self, request: Generate) -> AsyncIterator[GeneratedText]:
        """One answer, piece by piece."""
        prompt = await asyncio.to_thread(self._render, request.messages, request.thinking)
        wanted = SampleRequest(
            prompt_ids=prompt.ids, seeds=(request.seed % 2**64,), temperature=request.temperature,
            max_tokens=request.max_tokens, stop=tuple(request.stop_sequences),
            adapter=await self._adapters.fetch(request.policy),
        )  # fmt: skip
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        answering = asyncio.ensure_future(self._engine.sample(wanted, lambda _, text: pieces.put_nowait(text)))
        answering.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield GeneratedText(text=piece)
            [sample] = await answering
        except (GenerationFailed, ValueError) as error:
            raise Refused(f"{request.pool} cannot answer: {error}") from error
        finally:
            answering.cancel()
        yield GeneratedText(
            text="", finish_reason=sample.finish_reason, prompt_tokens=len(prompt.ids),
            completion_tokens=len(sample.token_ids),
        )  # fmt: skip

    async def on_dataset_measure(self, request: DatasetMeasure) -> RowLengths:
        """How long prepared rows are, before a run is submitted."""
        data = await self._store.get(dataset_key(request.spec, request.chunk))
        examples = msgspec.msgpack.decode(data, type=list[Example])[: request.rows]
        return await asyncio.to_thread(self._measure, examples, request.spec)

    async def _prefetch(self, event: StepFinished | StepDiverged) -> None:
        """What fails here fails again, and is dealt with, when a group is played."""
        try:
            if adapter := await self._adapters.fetch(event.policy):
                self._engine.expect(adapter)
        except (FlashError, OSError) as error:
            log.warning("adapter.missed", run_id=event.run_id, policy_version=event.policy.version, reason=str(error))

    async def _played(self, event: GroupRequested, spec: RunSpec, policy: PolicyRef) -> PlayedGroup:
        """The group in turns, where its example is an episode; else with one answer each, not yet scored."""
        sampling, prompt = _sampling(spec), Prompt(())
        try:
            adapter = await self._adapters.fetch(policy)
            if event.example.max_turns is not None:
                return await self._episodes.play(event, spec, sampling, adapter)
            prompt = await asyncio.to_thread(self._render, event.example.messages, spec.thinking)
            samples = await self._engine.sample(sample_request(spec, event, prompt, adapter))
        except (GenerationFailed, ValueError) as error:
            return PlayedGroup(prompt, [_faulted(str(error))] * sampling.group_size, [])
        return PlayedGroup(prompt, [rollout_of(sample, prompt if spec.thinking else None) for sample in samples], [])

    async def _while_wanted(self, event: GroupRequested, work: Coroutine[Any, Any, PlayedGroup]) -> PlayedGroup:
        """Raises RunIsOver when the run ends meanwhile: its rows are freed at once."""
        run = run_key(event)
        playing = asyncio.ensure_future(work)
        self._playing[playing] = run, event.attempt
        try:
            return await playing
        except asyncio.CancelledError:
            if playing.cancelled() and self._runs.is_over(run, event.attempt):
                raise RunIsOver from None
            raise
        finally:
            playing.cancel()
            del self._playing[playing]

    async def _is_over(self, event: GroupRequested) -> bool:
        """What was said before we listened is asked for once; what comes later we hear."""
        run = run_key(event)
        if (known := self._runs.is_over(run, event.attempt)) is not None:
            return known
        lasts = [await self._bus.last(kind.pattern(org=event.org, run_id=event.run_id)) for kind in ENDS]
        ended = (last.event.attempt for last in lasts if last and isinstance(last.event, AttemptEvent))
        self._runs.heard(run, over=max(ended, default=0))
        return bool(self._runs.is_over(run, event.attempt))

    async def _told(self, event: GroupRequested) -> list[Event] | None:
        """What follows where the group was played before: nothing, if it is scored or about to be. What an attempt that
        is over left unscored is told again for this one. None: nobody has played it.
        """
        where = {"org": event.org, "run_id": event.run_id, "scope": event.scope, "step": event.step}
        if await self._bus.last(GroupScored.pattern(**where, group=event.group)):
            return []
        told = await self._bus.last(GroupGenerated.pattern(**where, group=event.group))
        if told is None:
            return None
        assert isinstance(told.event, GroupGenerated)
        again = told.event.attempt < event.attempt
        return [msgspec.structs.replace(told.event, attempt=event.attempt)] if again else []

    async def _spec(self, run_id: str) -> RunSpec:
        if run_id not in self._specs:
            self._specs[run_id] = msgspec.json.decode(await self._store.get(spec_key(run_id)), type=RunSpec)
        return self._specs[run_id]


class RunIsOver(FlashError):
    """Nobody wants the group any more."""


def sample_request(spec: RunSpec, event: GroupRequested, prompt: Prompt, adapter: Adapter | None) -> SampleRequest:
    """What the engine is asked for one group."""
    sampling = _sampling(spec)
    seeds = (rollout_seed(spec.seed, event.scope, event.step, event.group, i) for i in range(sampling.group_size))
    return SampleRequest(
        prompt_ids=prompt.ids, seeds=tuple(seeds), temperature=sampling.temperature,
        max_tokens=room(spec, sampling, len(prompt.ids)), stop=tuple(sampling.stop_sequences), adapter=adapter,
    )  # fmt: skip


def rollout_of(sample: Sample, thought_behind: Prompt | None = None) -> Rollout:
    """A single turn: every token is the policy's own. Of a run that thinks, thoughts are counted."""
    thought = None
    if thought_behind:
        thought = thinking_tokens(
            sample.token_ids, thought_behind.marks, opened=thought_behind.opened, closed=sample.finish_reason == "stop"
        )
    return Rollout(
        token_ids=pack_ids(sample.token_ids), logprobs=pack_floats(sample.logprobs),
        mask=b"\x01" * len(sample.token_ids), text=sample.text, finish_reason=sample.finish_reason,
        thinking_tokens=thought,
    )  # fmt: skip


def given_up(event: GroupRequested, reason: str, group_size: int) -> GroupScored:
    """A group that cannot be played is told as scored, with faults: the run's fault limit decides."""
    rollout = _faulted(reason)
    return GroupScored(
        org=event.org, run_id=event.run_id, scope=event.scope, step=event.step, group=event.group,
        example=event.example, policy=event.policy, prompt_ids=b"", rollouts=[rollout] * group_size,
        verdicts=[Verdict(fault=rollout.fault)] * group_size,
    )  # fmt: skip


def _cancelled(event: GroupRequested) -> GroupCancelled:
    return GroupCancelled(
        org=event.org, run_id=event.run_id, attempt=event.attempt, scope=event.scope, step=event.step, group=event.group
    )


def _faulted(message: str) -> Rollout:
    return Rollout(finish_reason="fault", fault=Fault(kind="generation-failed", message=message))


def _sampling(spec: RunSpec) -> SamplingSpec:
    if spec.sampling is None:
        raise Refused(f"run {spec.run_id} samples nothing, yet a group of it was asked for")
    return spec.sampling
