"""The scorer: everything that needs an author's code."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
import structlog

from flash import chaos
from flash.bus import Bus, Shared
from flash.contracts.base import Event, Request
from flash.contracts.environments import EnvironmentWithdrawn
from flash.contracts.groups import GroupGenerated, GroupScored
from flash.contracts.hosting import (
    CheckReport,
    EnvironmentCheck,
    EpisodeClose,
    EpisodeRenew,
    EpisodeScore,
    EpisodesStarted,
    EpisodeStart,
    EpisodeStep,
    ScorerKey,
    SealingKey,
    Stepped,
)
from flash.contracts.keys import DATASET_CHUNK, dataset_key, sealed_key, spec_key
from flash.contracts.preparing import DatasetPrepare, PreparedRows
from flash.contracts.runs import LAST_WORDS, DatasetRequested
from flash.contracts.spec import RunSpec
from flash.contracts.values import Example, Fault, Verdict
from flash.errors import AlreadyThere, CannotOpen, EnvironmentFault, NoSuchObject
from flash.host import OUT_OF_REACH, Allowance, Host, InstallFailed, Limits, LoadFailed, RequirementSets
from flash.secrets import KeyPair, of_archive, of_run
from flash.store import Store
from services.scorer.episodes import Holder
from services.scorer.hosts import Archives, Hosts
from services.scorer.scoring import (
    dataset_failed,
    dataset_given_up,
    dataset_prepared,
    decode_examples,
    encode_examples,
    every_verdict,
    group_cancelled,
    group_given_up,
    group_scored,
    load_params,
    prepared_rows,
    shortened,
    to_score,
)
from services.scorer.settings import Settings

_SPECS_KEPT = 64
QUICK_S = 0.05

log = structlog.get_logger()


class Scorer:
    """Scores groups, renders datasets, checks environments; each in a host, never in this process."""

    def __init__(self, bus: Bus, store: Store, settings: Settings) -> None:
        self._bus, self._store, self._settings = bus, store, settings
        cache = settings.home / "cache"
        self._archives = Archives(store, cache / "environments", settings.archive_limits)
        self._hosts = Hosts(
            self._archives,
            RequirementSets(
                cache / "requirements",
                timeout_s=settings.install_timeout_s,
                builds=settings.build_sources,
                allowance=Allowance(memory_bytes=settings.host_bytes, disk_bytes=settings.install_disk_bytes),
                say=lambda text: log.info("requirements.installing", told=text),
            ),
            limits=Limits(
                slots=settings.slots,
                episodes=settings.max_episode_groups,
                memory_bytes=settings.memory_bytes,
                host_bytes=settings.host_bytes,
            ),
            load_timeout_s=settings.load_timeout_s,
            max_hosts=settings.max_hosts,
            max_bytes=settings.max_hosts_bytes,
            idle_s=settings.host_idle_s,
        )
        self._holder = Holder(
            self._host,
            replica=settings.replica,
            most=settings.max_episode_groups,
            lease_s=settings.episode_lease_s,
            deadline_s=settings.score_timeout_s,
            new_id=lambda: uuid.uuid4().hex,
        )
        self._keys = KeyPair.kept(settings.key_file or settings.home / "keys" / "scorer")
        self._specs: dict[str, RunSpec] = {}
        self._secrets: dict[str, dict[str, str]] = {}
        """Of the runs whose specs are kept, by name."""
        self._live_until: dict[str, float] = {}
        self._quick: set[str] = set()
        """Runs whose last group took little. Of others it is asked first whether somebody has scored a group already:
        to score a quick one again, for the stream to refuse, costs less than asking every time."""

    @property
    def replica(self) -> str:
        return self._settings.replica

    def subscriptions(self) -> tuple[Shared, ...]:
        return (
            Shared(
                "scorer-groups",
                GroupGenerated,
                self.on_group_generated,
                slots=self._settings.slots,
                give_up=group_given_up,
            ),
            Shared(
                "scorer-datasets",
                DatasetRequested,
                self.on_dataset_requested,
                slots=self._settings.slots,  # one that waits for its requirements keeps nobody else waiting
                give_up=dataset_given_up,
            ),
        )

    def answers(self) -> Mapping[type[Request], Callable[[Any], Awaitable[Any]]]:
        """To be answered with `replica=self.replica`: who has open episodes asks for them by it."""
        return {
            EnvironmentCheck: self.check_environment,
            ScorerKey: self.tell_key,
            DatasetPrepare: self.prepare_dataset,
            EpisodeStart: self.start_episodes,
            EpisodeStep: self.step_episode,
            EpisodeScore: self._holder.score,
            EpisodeRenew: self._holder.renew,
            EpisodeClose: self._holder.give_up,
        }

    async def keep_tidy(self) -> None:
        """Run beside the service."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hosts.keep_tidy())
            group.create_task(self._forget_withdrawn())

    async def close(self) -> None:
        await self._holder.close()
        await self._hosts.close()

    async def on_group_generated(self, event: GroupGenerated) -> list[Event]:
        where = {"org": event.org, "run_id": event.run_id}
        scored = GroupScored.pattern(**where, scope=event.scope, step=event.step, group=event.group)
        if await self._is_over(event):
            return [group_cancelled(event)]
        if event.run_id not in self._quick and await self._bus.last(scored):
            return []
        began = time.monotonic()
        spec = (await self._spec(event.run_id)).of(event.scope)
        chaos.point("before-score")
        verdicts = event.verdicts or await self._verdicts(event, spec)
        verdicts = shortened(event.rollouts, verdicts, spec.train.thinking_length_penalty_coef if spec.train else 0.0)
        took_s = round(time.monotonic() - began, 4)
        (self._quick.add if took_s < QUICK_S else self._quick.discard)(event.run_id)
        faults = sum(verdict.fault is not None for verdict in verdicts)
        log.debug("group.scored", run_id=event.run_id, group_id=event.group_id, faults=faults, took_s=took_s)
        told = {"environment_version": spec.environment.version, "replica": self._settings.replica, "took_s": took_s}
        return [group_scored(event, verdicts, **told)]

    async def on_dataset_requested(self, event: DatasetRequested) -> list[Event]:
        if await self._is_over(event):
            return []
        spec = (await self._spec(event.run_id)).of(event.scope)
        key = dataset_key(spec, event.chunk)
        try:
            examples, total = await self._rendered(spec, event.chunk)
        except (LoadFailed, CannotOpen) as failed:
            fault = _fault(failed)
            log.info("dataset.failed", run_id=event.run_id, chunk=event.chunk, reason=fault.message)
            return [dataset_failed(event, fault)]
        log.info("dataset.prepared", run_id=event.run_id, chunk=event.chunk, rows=total)
        return [dataset_prepared(event, examples, total, key)]

    async def prepare_dataset(self, request: DatasetPrepare) -> PreparedRows:
        """The same before a run is submitted: what is wrong with its rows is known before anything is queued."""
        try:
            examples, total = await self._rendered(request.spec, request.chunk, request.sealed)
        except (LoadFailed, CannotOpen) as failed:
            return PreparedRows(fault=_fault(failed))
        return prepared_rows(examples, total, thinking=request.spec.thinking)

    async def start_episodes(self, request: EpisodeStart) -> EpisodesStarted:
        return await self._holder.start(request, (await self._spec(request.run_id)).of(request.scope))

    async def step_episode(self, request: EpisodeStep) -> Stepped:
        chaos.point("before-step")
        return await self._holder.step(request)

    async def tell_key(self, request: ScorerKey) -> SealingKey:
        return SealingKey(public=self._keys.public)

    async def check_environment(self, request: EnvironmentCheck) -> CheckReport:
        """Load the archive in a clean host and render every row.

        What the machine lacks is no fault of the package's: it is noted, and met when a run is planned.
        """
        try:
            purpose = of_archive(request.digest)
            secrets = self._keys.open(request.sealed, purpose) if request.sealed else {}
            async with self._hosts.alone(
                request.key,
                request.digest,
                request.params,
                pip=request.pip,
                worker_env=request.worker_env,
                secrets=secrets,
            ) as host:
                return await self._checked(host)
        except InstallFailed as failed:
            return CheckReport(notes=[f"not validated: {failed.brief}"])
        except LoadFailed as failed:
            if failed.missing:
                return CheckReport(notes=[f"not validated: needs {failed.missing}"])
            if OUT_OF_REACH in failed.fault.message:  # the run that will use it may name what it reaches for
                return CheckReport(notes=[f"not validated: {failed.fault.message}"])
            return CheckReport(fault=failed.fault)
        except EnvironmentFault as error:
            return CheckReport(fault=Fault(kind="load-failed", message=str(error)))

    async def _forget_withdrawn(self) -> None:
        """From the first that ever was: one may have been withdrawn while no scorer was up."""
        async for told in self._bus.replay(EnvironmentWithdrawn.pattern()):
            assert isinstance(told.event, EnvironmentWithdrawn)
            await self._hosts.forget(told.event.digest)

    async def _checked(self, host: Host) -> CheckReport:
        rows: dict[str, int] = {}
        fault = None
        for split in host.about.splits:
            try:
                rows[split] = await host.check(split, host.about.prompt_text, deadline_s=self._settings.score_timeout_s)
            except LoadFailed as failed:
                message = f"split {split}: {failed.fault.message}"
                fault = msgspec.structs.replace(failed.fault, message=message)
                break
        return CheckReport(rows=rows, fault=fault, prompt_text=host.about.prompt_text)

    async def _verdicts(self, event: GroupGenerated, spec: RunSpec) -> list[Verdict]:
        which = to_score(event.rollouts)
        texts = [event.rollouts[index].text for index in which]
        try:
            async with self._host(spec) as host:
                verdicts = await host.score(
                    event.example,
                    texts,
                    deadline_s=self._settings.score_timeout_s,
                    thinking=spec.thinking,
                    prompt_opened=event.prompt_opened,
                    truncated=[rollout.text for rollout in event.rollouts if rollout.finish_reason == "length"],
                )
        except InstallFailed:
            raise  # it could be installed where the run was planned: again, perhaps elsewhere
        except LoadFailed as failed:
            verdicts = [Verdict(fault=failed.fault)] * len(texts)
        return every_verdict(event.rollouts, dict(zip(which, verdicts, strict=True)))

    async def _rendered(self, spec: RunSpec, chunk: int, sealed: bytes = b"") -> tuple[list[Example], int]:
        """The rows of a chunk, and how many the split has; both lie in the store. Raises LoadFailed and CannotOpen."""
        return await self._prepared(spec, chunk) or await self._render(spec, chunk, sealed)

    async def _render(self, spec: RunSpec, chunk: int, sealed: bytes) -> tuple[list[Example], int]:
        """The rows, which lie in the store when this returns, and how many the split has. Raises LoadFailed."""
        async with self._host(spec, sealed) as host:
            if host.has_places_of(spec.split):
                return await self._kept_pages(host, spec, chunk)
            async with host.reading:  # whoever was here before may have read it whole
                return await self._prepared(spec, chunk) or await self._kept_pages(host, spec, chunk)

    async def _kept_pages(self, host: Host, spec: RunSpec, chunk: int) -> tuple[list[Example], int]:
        """The page that is asked for; whatever else had to be read for it is kept too."""
        examples, total = list[Example](), 0
        pages = host.pages(
            spec.split, chunk, DATASET_CHUNK, spec.prompt_text, deadline_s=self._settings.score_timeout_s
        )
        async with aclosing(pages):
            async for page in pages:
                number, total = page.examples[0].index // DATASET_CHUNK, page.total
                await self._keep(dataset_key(spec, number), encode_examples(page.examples))
                examples = page.examples if number == chunk else examples
        await self._keep(_total_key(spec), str(total).encode())
        return examples, total

    async def _prepared(self, spec: RunSpec, chunk: int) -> tuple[list[Example], int] | None:
        """What another run has had rendered in the same way."""
        key = dataset_key(spec, chunk)
        if await self._store.stat(key) is None or await self._store.stat(_total_key(spec)) is None:
            return None
        data, total = await asyncio.gather(self._store.get(key), self._store.get(_total_key(spec)))
        return decode_examples(data), int(total)

    async def _keep(self, key: str, data: bytes) -> None:
        try:
            await self._store.put(key, data, if_absent=True)
        except AlreadyThere:
            log.info("dataset.known", key=key)

    async def _spec(self, run_id: str) -> RunSpec:
        if run_id not in self._specs:
            spec = msgspec.json.decode(await self._store.get(spec_key(run_id)), type=RunSpec)
            while len(self._specs) >= _SPECS_KEPT:
                oldest = next(iter(self._specs))
                del self._specs[oldest]
                self._secrets.pop(oldest, None)
            self._specs[run_id] = spec
        return self._specs[run_id]

    async def _is_over(self, event: GroupGenerated | DatasetRequested) -> bool:
        """Its attempt has had its last word: what is still asked for it is no longer wanted."""
        now = time.monotonic()
        if self._live_until.get(event.run_id, 0.0) > now:
            return False
        where = {"org": event.org, "run_id": event.run_id, "attempt": event.attempt}
        if any([await self._bus.last(kind.pattern(**where)) for kind in LAST_WORDS]):
            return True
        self._live_until = {run: until for run, until in self._live_until.items() if until > now}
        self._quick &= {*self._live_until, event.run_id}
        self._live_until[event.run_id] = now + self._settings.live_cache_s
        return False

    @asynccontextmanager
    async def _host(self, spec: RunSpec, sealed: bytes = b"") -> AsyncIterator[Host]:
        """`sealed`: the secrets of a run that is not submitted yet. Raises CannotOpen where they are not for us."""
        environment = spec.environment
        secrets = await self._opened(spec, sealed) if environment.secrets else {}
        async with self._hosts.of(
            environment.key,
            environment.digest,
            load_params(spec),
            environment.pip,
            environment.network,
            environment.worker_env,
            secrets,
        ) as host:
            yield host

    async def _opened(self, spec: RunSpec, sealed: bytes) -> dict[str, str]:
        """The secrets that a run has declared, and no others; those of one that is not submitted are not kept."""
        if sealed:
            return self._declared(spec, sealed)
        if spec.run_id not in self._secrets:
            try:
                kept = await self._store.get(sealed_key(spec.run_id, "scorer"))
            except NoSuchObject as error:
                raise CannotOpen(f"run {spec.run_id} declares secrets and was given none: submit it again") from error
            self._secrets[spec.run_id] = self._declared(spec, kept)
        return self._secrets[spec.run_id]

    def _declared(self, spec: RunSpec, sealed: bytes) -> dict[str, str]:
        given = self._keys.open(sealed, of_run(spec.org, spec.run_id))
        if missing := [name for name in spec.environment.secrets if name not in given]:
            raise CannotOpen(f"run {spec.run_id} was not given its secrets {', '.join(missing)}: submit it again")
        return {name: given[name] for name in spec.environment.secrets}


def _fault(failed: LoadFailed | CannotOpen) -> Fault:
    return failed.fault if isinstance(failed, LoadFailed) else Fault(kind="load-failed", message=str(failed))


def _total_key(spec: RunSpec) -> str:
    """Beside a dataset's chunks: how many rows there are in all."""
    return dataset_key(spec, 0).rpartition("/")[0] + "/total"
