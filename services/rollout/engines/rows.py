"""Rows: the samples being drawn, and the request each belongs to."""

import hashlib
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from services.rollout.engines import Sample, SampleRequest
from services.rollout.engines.sampling import uniforms
from services.rollout.engines.stopping import Decode, first_stop, has_stopped, showable


@dataclass(eq=False)
class Job:
    """A request at work, and who is told."""

    request: SampleRequest
    max_tokens: int
    """What the request asks for, cut to the context."""
    on_done: Callable[[list[Sample] | BaseException], None]
    on_text: Callable[[int, str], None] | None = None
    cancelled: bool = False
    """Set by the asker; the batch drops the rows at its next step."""
    number: int = 0
    """Its place in the order in which jobs came."""
    samples: dict[int, Sample] = field(default_factory=dict)

    @cached_property
    def prompt(self) -> str:
        """Equal where the adapter and the prompt's tokens are."""
        ids = hashlib.sha256(array("q", self.request.prompt_ids).tobytes()).hexdigest()
        return f"{self.request.adapter.digest} {ids}" if self.request.adapter else ids

    def rows(self) -> list["Row"]:
        return [Row(self, index, uniforms(seed, self.max_tokens)) for index, seed in enumerate(self.request.seeds)]


@dataclass(eq=False, slots=True)
class Row:
    """One sample being drawn."""

    job: Job
    index: int
    uniform: list[float]
    """[max_tokens] a number in [0, 1) for each token it may draw."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    lora: Any = None
    """The adapter's weights, in the form its decoder wants them."""
    shown: str = ""
    """What `on_text` has had."""

    @property
    def adapter(self) -> str:
        """The adapter's digest; empty for the base model."""
        return self.job.request.adapter.digest if self.job.request.adapter else ""

    @property
    def order(self) -> tuple[int, int]:
        return self.job.number, self.index

    @property
    def length(self) -> int:
        return len(self.job.request.prompt_ids) + len(self.ids)

    @property
    def all_ids(self) -> tuple[int, ...]:
        return (*self.job.request.prompt_ids, *self.ids)

    def append(self, id: int, logprob: float, closing_ids: frozenset[int], decode: Decode) -> bool:
        """Takes the next token. True when the sample ends with it, and its Sample is with the job."""
        self.ids.append(id)
        self.logprobs.append(logprob)
        job, stop = self.job, self.job.request.stop
        if id in closing_ids or (stop and has_stopped(self.ids, stop, decode)):
            self._finish("stop", decode)
        elif len(self.ids) == job.max_tokens:
            self._finish("length", decode)
        else:
            if job.on_text:
                self._show(showable(decode(self.ids), stop))
            return False
        return True

    def _finish(self, reason: Literal["stop", "length"], decode: Decode) -> None:
        text = decode(self.ids)
        text = text[: first_stop(text, self.job.request.stop)]
        self._show(text)
        self.job.samples[self.index] = Sample(self.ids, self.logprobs, text, reason)

    def _show(self, text: str) -> None:
        if self.job.on_text and (piece := text[len(self.shown) :]):
            self.shown = text
            self.job.on_text(self.index, piece)


@dataclass
class Load:
    """What some rows hold, as far as their memory depends on it."""

    rows: int = 0
    prompts: set[str] = field(default_factory=set)
    longest_prompt: int = 0
    longest_said: int = 0

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Load":
        load = cls()
        for row in rows:
            load.add(row)
        return load

    def add(self, row: Row) -> None:
        self.rows += 1
        self.prompts.add(row.job.prompt)
        self.longest_prompt = max(self.longest_prompt, len(row.job.request.prompt_ids))
        self.longest_said = max(self.longest_said, len(row.ids))
