"""What each step of a run is taught: GRPO waits for its groups, SFT reads the prepared dataset."""

import asyncio
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Protocol, cast

import msgspec

from flash.bus import Bus
from flash.contracts.keys import DATASET_CHUNK
from flash.contracts.runs import DatasetPrepared, RunStarted
from flash.contracts.spec import RunSpec, SamplingSpec, TrainSpec
from flash.contracts.steps import TrainedGroup
from flash.contracts.values import Example, Fault
from flash.errors import FlashError, NoSuchObject
from flash.store import Store
from services.learner import gold, metrics
from services.learner.batch import Answer, Tree, conversation, group_batch
from services.learner.failures import CannotTrain, RunOver
from services.learner.gather import Groups
from services.learner.loss import DrGrpo, Loss, Sft

Render = Callable[[Example, bool], tuple[list[int], list[int]]]
"""From a gold row, and whether the run thinks, to its token ids and its mask: 1 on what the assistant says."""


@dataclass(frozen=True)
class Lesson:
    """One step."""

    trees: tuple[Tree, ...]
    """Empty: there is nothing to learn, and the optimiser rests."""
    loss: Loss
    learning_rate: float
    metrics: dict[str, float]
    groups: tuple[TrainedGroup, ...] = ()
    rollouts: int = 0
    faults: tuple[Fault, ...] = field(default=())


class Lessons(Protocol):
    """Where a run's steps come from."""

    async def of_step(self, step: int) -> Lesson:
        """Steps are asked for in order. Waits until everything is there."""

    async def close(self) -> None: ...


class GroupLessons:
    """GRPO."""

    def __init__(self, groups: Groups, spec: RunSpec) -> None:
        self._groups = groups
        self._train, self._sampling = cast("TrainSpec", spec.train), cast("SamplingSpec", spec.sampling)

    async def of_step(self, step: int) -> Lesson:
        groups = await self._groups.of_step(step)
        pickup_s = await self._groups.pickup_s()
        train, sampling = self._train, self._sampling
        batch = group_batch(groups, masks_truncated=not sampling.stop_sequences)
        loss = DrGrpo(
            normaliser=batch.rollouts * sampling.max_tokens,
            cap=2.0 if train.importance_correction == "truncate" else None,
            kl_coef=train.kl_penalty_coef,
            temperature=sampling.temperature or 1.0,
        )
        return Lesson(
            trees=batch.trees,
            loss=loss,
            learning_rate=train.learning_rate,
            metrics=metrics.of_groups(groups, batch, step) | ({} if pickup_s is None else {"pickup_s": pickup_s}),
            groups=batch.groups,
            rollouts=batch.rollouts,
            faults=batch.faults,
        )

    async def close(self) -> None:
        await self._groups.close()


class GoldLessons:
    """SFT."""

    def __init__(
        self, bus: Bus, store: Store, spec: RunSpec, started: RunStarted, render: Render, wanted: Callable[[], bool]
    ) -> None:
        self._bus = bus
        self._store = store
        self._spec = spec
        self._train = cast("TrainSpec", spec.train)
        self._started = started
        self._render = render
        self._wanted = wanted
        self._rows: list[Answer | None] = []
        """In dataset order; None for a row too long to keep a token to learn from."""

    async def of_step(self, step: int) -> Lesson:
        if not self._rows:
            self._rows = await self._read()
        rows, batch_size = len(self._rows), self._train.batch_size
        chosen = gold.rows_of_step(step, seed=self._spec.seed, rows=rows, batch_size=batch_size)
        answers = [answer for row in chosen if (answer := self._rows[row]) is not None]
        figures = {
            "epoch": gold.epochs_after(step, rows=rows, batch_size=batch_size),
            "dropped": float(sum(answer is None for answer in self._rows)),
        }
        return Lesson(
            trees=tuple(Tree((), (answer,)) for answer in answers),
            loss=Sft(normaliser=float(sum(sum(answer.mask_T) for answer in answers))),
            learning_rate=gold.warmed_up(self._train.learning_rate, step=step, steps=self._started.steps),
            metrics=figures,
        )

    async def close(self) -> None:
        """Nothing is held."""

    async def _read(self) -> list[Answer | None]:
        """Every row that the run uses. Raises CannotTrain when none of them can be learned from."""
        rows: list[Answer | None] = []
        for key in await self._keys():
            try:
                examples = msgspec.msgpack.decode(await self._store.get(key), type=list[Example])
            except NoSuchObject as error:
                raise CannotTrain(f"the prepared dataset is gone from the store: {error}") from error
            rows += await asyncio.to_thread(self._render_all, examples[: self._started.rows - len(rows)])
        if not any(rows):
            raise CannotTrain(
                f"none of the {len(rows)} rows has a token to learn from within train.max_length = "
                f"{self._train.max_length} tokens: raise it, or shorten prompts"
            )
        return rows

    async def _keys(self) -> list[str]:
        """Where the chunks lie, in order; waits until all are prepared."""
        wanted = ceil(self._started.rows / DATASET_CHUNK)
        keys: dict[int, str] = {}
        async for told in self._bus.replay(
            DatasetPrepared.pattern(org=self._spec.org, run_id=self._spec.run_id, scope="train")
        ):
            prepared = cast("DatasetPrepared", told.event)
            if prepared.chunk < wanted:
                keys[prepared.chunk] = prepared.key
            if len(keys) == wanted:
                break
        return [keys[chunk] for chunk in sorted(keys)]

    def _render_all(self, examples: list[Example]) -> list[Answer | None]:
        return [self._answer(example) for example in examples]

    def _answer(self, example: Example) -> Answer | None:
        if not self._wanted():
            raise RunOver
        if example.completion is None:
            raise CannotTrain(
                f"row {example.id} has no output, and SFT learns from outputs: give it one, or leave it out"
            )
        try:
            ids, mask = self._render(example, self._spec.thinking)
        except FlashError as error:
            raise CannotTrain(f"row {example.id} cannot be shown to {self._spec.model}: {error}") from error
        answer = conversation(ids, mask, self._train.max_length)
        # Packed: a dataset of many rows stays in memory for the whole run.
        return answer and Answer(array("i", answer.ids_T), bytes(answer.mask_T))
