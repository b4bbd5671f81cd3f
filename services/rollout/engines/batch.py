"""Continuous batching: rows join at any step, leave as they finish, and give way when the cache is full."""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Protocol

from torch import Tensor

from services.rollout.engines import Adapter, GenerationFailed
from services.rollout.engines.cache import CHUNK
from services.rollout.engines.lora import Pair, Shelf
from services.rollout.engines.rows import Job, Load, Row
from services.rollout.engines.sampling import draw
from services.rollout.engines.stopping import Decode


class Decoder(Protocol):
    """A model with a cache: `fused`, or `modules`."""

    @property
    def rows(self) -> Sequence[Row]: ...
    @property
    def token_bytes(self) -> int: ...
    def held_tokens(self, load: Load, more: int = 0) -> int:
        """How many tokens, padding included, the cache holds for these rows, once each has said `more`."""

    def lora(self, adapter: Adapter) -> Mapping[Any, Pair]: ...
    def add(self, rows: Sequence[Row]) -> Tensor: ...
    def step(self) -> Tensor: ...
    def drop(self, rows: Sequence[Row]) -> None: ...
    def wipe(self) -> None: ...
    def sleep(self) -> None: ...
    def wake(self) -> None: ...


class Batch:
    """Every row of the engine: those being drawn, and those that wait."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        decode: Decode,
        closing_ids: frozenset[int],
        max_rows: int,
        cache_bytes: int,
        adapter_bytes: int,
    ) -> None:
        self._decoder = decoder
        self._decode = decode
        self._closing_ids = closing_ids
        self._max_rows = max_rows
        self._cache_tokens = cache_bytes // decoder.token_bytes
        self._adapters = Shelf(decoder.lora, adapter_bytes)
        self._waiting: deque[Row] = deque()
        self._numbers = count()
        self._sleeps = False

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._decoder.rows

    @property
    def jobs(self) -> set[Job]:
        return {row.job for row in (*self._waiting, *self._decoder.rows)}

    def add(self, job: Job) -> None:
        job.number = next(self._numbers)
        self._waiting.extend(job.rows())

    def load(self, adapter: Adapter) -> None:
        if not self._sleeps:
            self._adapters.get(adapter)

    def step(self) -> None:
        """One token for every row that has a place; rows that have just come in get one more."""
        if self._sleeps:
            self._decoder.wake()
            self._sleeps = False
        self._drop_cancelled()
        if coming := self._admitted():
            self._take(coming, self._decoder.add(coming))
        self._make_room()
        if self._decoder.rows:
            rows = list(self._decoder.rows)
            self._take(rows, self._decoder.step())

    def clear(self) -> None:
        """Forget every row."""
        self._waiting.clear()
        self._decoder.drop(list(self._decoder.rows))
        self._decoder.wipe()

    def sleep(self) -> None:
        self._adapters.clear()
        self._decoder.sleep()
        self._sleeps = True

    def _take(self, rows: Sequence[Row], logits: Tensor) -> None:
        """Draw the next token of each row; those that end with it leave."""
        ids, logprobs = draw(
            logits,
            [row.job.request.temperature for row in rows],
            [row.uniform[len(row.ids)] for row in rows],
        )
        ended, broken = [], False
        for row, id, logprob in zip(rows, ids, logprobs, strict=True):
            if logprob != logprob:  # NaN
                self._fail(row.job, GenerationFailed(f"{_policy(row)} gives probabilities that are not finite"))
                broken = True
            elif row.append(id, logprob, self._closing_ids, self._decode):
                ended.append(row)
        if ended:
            self._decoder.drop(ended)
            for job in dict.fromkeys(row.job for row in ended):
                if len(job.samples) == len(job.request.seeds) and not job.cancelled:
                    job.on_done([job.samples[i] for i in range(len(job.samples))])
        if broken:
            self._drop_cancelled()
            self._decoder.wipe()

    def _admitted(self) -> list[Row]:
        """The rows that come in now, oldest first: as many as there are places, and memory for two more chunks each."""
        coming: list[Row] = []
        load = Load.of(self._decoder.rows) if self._waiting else Load()
        while self._waiting:
            row = self._waiting[0]
            load.add(row)
            if load.rows > self._max_rows or (load.rows > 1 and self._is_too_much(load, more=CHUNK)):
                break
            self._waiting.popleft()
            if row.job.cancelled:
                continue
            try:
                row.lora = self._adapters.get(row.job.request.adapter) if row.job.request.adapter else None
            except (GenerationFailed, OSError) as error:
                self._fail(row.job, error)
                continue
            coming.append(row)
        return [row for row in coming if not row.job.cancelled]

    def _make_room(self) -> None:
        """Rows that came last wait again while the others need their memory; they go on where they were."""
        rows = list(self._decoder.rows)
        victims: list[Row] = []
        while len(rows) > 1 and self._is_too_much(Load.of(rows)):
            youngest = max(rows, key=lambda row: row.order)
            rows.remove(youngest)
            victims.append(youngest)
        if victims:
            self._decoder.drop(victims)
            self._waiting.extendleft(victims)

    def _is_too_much(self, load: Load, more: int = 0) -> bool:
        return self._decoder.held_tokens(load, more) > self._cache_tokens

    def _drop_cancelled(self) -> None:
        if any(row.job.cancelled for row in self._decoder.rows):
            self._decoder.drop([row for row in self._decoder.rows if row.job.cancelled])
        if any(row.job.cancelled for row in self._waiting):
            self._waiting = deque(row for row in self._waiting if not row.job.cancelled)

    def _fail(self, job: Job, error: BaseException) -> None:
        if not job.cancelled:
            job.cancelled = True
            job.on_done(error)


def _policy(row: Row) -> str:
    return f"adapter {row.adapter[:12]}" if row.adapter else "the base model"
