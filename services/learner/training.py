"""One run in the hands of one learner, from claim to last checkpoint: gives the facts that follow."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import structlog

from flash import chaos
from flash.contracts.base import Event
from flash.contracts.keys import adapter_key
from flash.contracts.runs import RunStarted
from flash.contracts.spec import RunSpec, TrainSpec
from flash.contracts.steps import StepDiverged, StepFinished, StepSaved
from flash.contracts.values import PolicyRef
from flash.errors import Damaged, NoSuchObject
from flash.store import Store
from services.learner import checkpoints, metrics
from services.learner.checkpoints import Save, Saver
from services.learner.failures import CannotTrain
from services.learner.lessons import Lesson
from services.learner.over import Over
from services.learner.policy import CONFIG, STATE, WEIGHTS, Base, Cut, Policy, Update, digest_of
from services.learner.recorded import Recorded

log = structlog.get_logger()


class Training:
    """Everything an invocation of the handler holds: its own policy, optimiser and uploads."""

    def __init__(
        self,
        *,
        store: Store,
        base: Base,
        turn: asyncio.Lock,
        spec: RunSpec,
        started: RunStarted,
        attempt: int,
        recorded: Recorded,
        cut: Cut,
        over: Over,
    ) -> None:
        """`turn` is fair: runs on one base take steps in turn. `cut` is how steps not yet recorded are computed."""
        self._store = store
        self._base = base
        self._turn = turn
        self._spec = spec
        self._train = cast("TrainSpec", spec.train)
        self._started = started
        self._attempt = attempt
        self._recorded = recorded
        self._cut = cut
        self._over = over
        self._policy: Policy | None = None
        self._files: dict[str, bytes] = {}
        """The adapter as it is now, packed."""
        self._ref = PolicyRef()
        self._saver = Saver(lambda save: checkpoints.write(store, save))
        self._unusable: set[int] = set()
        """Steps whose checkpoint was told but is not whole."""
        self.done = 0
        """The last step that the policy has behind it."""

    async def start(self) -> list[Event]:
        """Take up the newest checkpoint, or begin."""
        for step in sorted(self._recorded.saved, reverse=True):
            if found := await checkpoints.read(self._store, self._recorded.saved[step].key):
                manifest, files = found
                self._policy = await self._base.compute(self._base.load_adapter, files)
                await self._base.compute(self._policy.restore, files)
                self._files = {name: files[name] for name in (CONFIG, WEIGHTS)}
                self._ref, self.done = manifest.policy, step
                log.info("run.taken-up", run_id=self._spec.run_id, step=step, attempt=self._attempt)
                return []
            self._unusable.add(step)
        self._policy = await self._first_policy()
        self._files = await self._base.compute(self._policy.files)
        return await self._tell(self._finished(0, self._ref_of(0)))

    async def step(self, step: int, lesson: Lesson) -> list[Event]:
        """Take one optimiser step, or rest when there is nothing to learn."""
        began = time.perf_counter()
        if lesson.trees:
            update = await self._update(step, lesson)
            self._files = await self._base.compute(self._live().files)
            finished = self._finished(step, self._ref_of(step), lesson, update)
        else:
            resting = PolicyRef(version=step, key=self._ref.key, digest=self._ref.digest)
            finished = self._finished(step, resting, lesson)
        finished.metrics["took_s"] = time.perf_counter() - began
        facts = await self._tell(finished)
        self.done = step
        return facts

    async def save(self) -> None:
        """After a step was told: begin its checkpoint's upload if one is due."""
        due = checkpoints.is_due(self.done, save_every=self._train.save_every, steps=self._started.steps)
        if due and (self.done not in self._recorded.saved or self.done in self._unusable):
            save = Save(
                run_id=self._spec.run_id,
                step=self.done,
                policy=self._ref,
                model=self._spec.model,
                seed=self._spec.seed,
                files=self._files | {STATE: await self._base.compute(self._live().state)},
                final=self.done == self._started.steps,
            )
            self._saver.offer(save)

    async def saved_before(self, done: asyncio.Future[Any]) -> list[Event]:
        """What to say of checkpoints that have arrived; waits for some until `done`, and is empty then."""
        while saves := await self._saver.arrived_before(done):
            if facts := self._told_saved(saves):
                return facts
        return []

    async def flush(self) -> list[Event]:
        """Wait for the last checkpoint."""
        return self._told_saved(await self._saver.flush())

    async def close(self) -> None:
        self._over.say()
        self._saver.close()
        if self._policy is not None:
            policy, self._policy = self._policy, None
            await self._base.compute(policy.release)

    async def _first_policy(self) -> Policy:
        train = self._train
        if train.init_from_adapter is None:
            return await self._base.compute(
                self._base.fresh, rank=train.lora_rank, alpha=train.lora_alpha, seed=self._spec.seed
            )
        begin = train.init_from_adapter
        try:
            files = {name: await self._store.get(f"{begin.key}/{name}") for name in (CONFIG, WEIGHTS)}
        except (NoSuchObject, Damaged) as error:
            raise CannotTrain(f"the adapter to start from cannot be had: {error}") from error
        if begin.digest and digest_of(files) != begin.digest:
            raise CannotTrain(f"the adapter to start from is {digest_of(files)}, but {begin.digest} was asked for")
        return await self._base.compute(self._base.load_adapter, files)

    async def _update(self, step: int, lesson: Lesson) -> Update:
        before = self._recorded.finished.get(step)
        cut = Cut(before.micro_batch, before.threads) if before and before.micro_batch else self._cut
        async with self._turn:
            return await self._base.compute(
                self._live().update,
                lesson.trees,
                lesson.loss,
                learning_rate=lesson.learning_rate,
                cut=cut,
                wanted=self._over.is_wanted,
            )

    def _finished(
        self, step: int, policy: PolicyRef, lesson: Lesson | None = None, update: Update | None = None
    ) -> StepFinished:
        finished = StepFinished(
            org=self._spec.org,
            run_id=self._spec.run_id,
            attempt=self._attempt,
            step=step,
            policy=policy,
            micro_batch=update.cut.max_tokens if update else 0,
            threads=update.cut.threads if update else self._cut.threads,
        )
        if lesson is None:
            return finished
        return msgspec.structs.replace(
            finished,
            groups=list(lesson.groups),
            metrics=lesson.metrics | (update.metrics if update else _RESTED),
            rollouts=lesson.rollouts,
            faults=len(lesson.faults),
            fault_samples=metrics.fault_samples(lesson.faults),
        )

    async def _tell(self, finished: StepFinished) -> list[Event]:
        """Publish the policy's weights where they are new. Nothing is said again of a step that went as recorded."""
        policy, known = finished.policy, self._recorded.policies.get(finished.step)
        if known is not None and known.digest == policy.digest:
            self._ref = known
            return []
        if policy.key != self._ref.key:
            await self._upload(policy.key)
        self._ref = policy
        if known is None:
            log.info("step.finished", run_id=finished.run_id, step=finished.step, **finished.metrics)
            return [finished]
        log.warning("step.diverged", run_id=finished.run_id, step=finished.step, recorded=known.digest)
        return [
            StepDiverged(
                org=finished.org,
                run_id=finished.run_id,
                attempt=finished.attempt,
                step=finished.step,
                recorded=known,
                policy=policy,
            )
        ]

    async def _upload(self, key: str) -> None:
        chaos.point("before-upload")
        for name, data in self._files.items():
            await self._store.put(f"{key}/{name}", data)
        chaos.point("uploaded")

    def _told_saved(self, saves: Sequence[Save]) -> list[Event]:
        return [
            StepSaved(
                org=self._spec.org,
                run_id=save.run_id,
                attempt=self._attempt,
                step=save.step,
                key=save.key,
                policy=save.policy,
                final=save.final,
            )
            for save in saves
            if save.step not in self._recorded.saved
        ]

    def _ref_of(self, step: int) -> PolicyRef:
        digest = digest_of(self._files)
        return PolicyRef(version=step, key=adapter_key(self._spec.run_id, digest), digest=digest)

    def _live(self) -> Policy:
        if self._policy is None:
            raise RuntimeError("the training has not started, or is closed")
        return self._policy


_RESTED = {"loss": 0.0, "grad_norm": 0.0, "tokens": 0.0}
"""A step without anything to learn: its gradient is zero, exactly."""
