"""The results of an evaluation: a row for each rollout, what the rows add up to, and the file that they are kept in."""

import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

import msgspec

from flash.contracts.values import Fault, Message, Verdict
from flash.errors import ConfigError

FAULT_SAMPLES = 3
"""How many faults, each of another kind or message, are kept to be shown."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What was evaluated: the first line of the file."""

    environment: str
    digest: str
    """Of the environment's archive."""
    split: str
    reference: str
    """The model, checkpoint, or model at an endpoint."""
    url: str = ""
    run_id: str = ""
    params: dict[str, Any] = {}
    pip: list[str] = []
    thinking: bool = False
    examples: int
    rollouts_per_example: int
    sampling: dict[str, Any] = {}
    seed: int = 42


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rollout."""

    index: int
    """The example's place in its split."""
    example: str
    rollout: int
    prompt: list[Message] = []
    messages: list[Message] = []
    """What followed the prompt, where that was more than one answer."""
    completion: str = ""
    """What the policy said last, thoughts included."""
    reward: float | None = None
    success: bool | None = None
    metrics: dict[str, float] = {}
    fault: Fault | None = None
    error: str | None = None
    output: str = ""
    """What the author's code printed."""
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    generate_s: float = 0.0
    score_s: float = 0.0

    @property
    def is_lost(self) -> bool:
        """There is no answer to score: to be asked again."""
        return self.fault is not None and self.fault.kind == "generation-failed"


def judged(row: Row, verdict: Verdict) -> Row:
    """The row with what the environment made of it."""
    numbers = ((m.name, m.score if m.score is not None else m.value) for m in verdict.metrics)
    return msgspec.structs.replace(
        row,
        reward=verdict.reward,
        success=verdict.success,
        metrics={name: float(n) for name, n in numbers if isinstance(n, int | float)},
        fault=verdict.fault,
        error=verdict.error,
        output=verdict.output,
        score_s=round(verdict.took_s, 6),
    )


@dataclass
class Sums:
    """Count, sum and sum of squares: enough for a mean and a standard deviation."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.n += 1
        self.total += value
        self.squares += value * value

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n else None

    @property
    def std(self) -> float | None:
        """Of the population; None without values."""
        return math.sqrt(max(0.0, self.squares / self.n - (self.total / self.n) ** 2)) if self.n else None


@dataclass
class Tally:
    """What rows add up to, without keeping them."""

    rollouts: int = 0
    truncated: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reward: Sums = field(default_factory=Sums)
    success: Sums = field(default_factory=Sums)
    errors: int = 0
    """Rollouts that were scored, and of which the environment says that something went wrong."""
    metrics: dict[str, Sums] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    """How many of each kind."""
    fault_samples: list[Fault] = field(default_factory=list)
    tried: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Of each example, how many rollouts were judged, and how many of them succeeded."""
    generate_s: "array[float]" = field(default_factory=lambda: array("d"))
    score_s: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, row: Row) -> None:
        self.rollouts += 1
        self.truncated += row.finish_reason == "length"
        self.prompt_tokens += row.prompt_tokens
        self.completion_tokens += row.completion_tokens
        self.generate_s.append(row.generate_s)
        if row.fault is not None:
            self._fault(row.fault)
            return
        self.score_s.append(row.score_s)
        self.errors += row.error is not None
        if row.reward is not None:
            self.reward.add(row.reward)
        if row.success is not None:
            self.success.add(float(row.success))
            tried, succeeded = self.tried.get(row.index, (0, 0))
            self.tried[row.index] = tried + 1, succeeded + row.success
        for name, value in row.metrics.items():
            self.metrics.setdefault(name, Sums()).add(value)

    def summary(self, took_s: float | None = None) -> dict[str, Any]:
        """All of it as plain data; None where nothing was measured. `took_s`: how long the evaluation took."""
        timing: dict[str, Any] = {"generate_s": spread(self.generate_s), "score_s": spread(self.score_s)}
        if took_s:
            timing |= {"took_s": took_s, "rollouts_per_s": self.rollouts / took_s}
        return {
            "reward": self.reward.mean,
            "reward_std": self.reward.std,
            "rollouts": self.rollouts,
            "faults": sum(self.faults.values()),
            "faults_by_kind": dict(sorted(self.faults.items())),
            "success": self.success.mean,
            "error_rate": self.errors / len(self.score_s) if self.score_s else None,
            "pass_at": {str(k): share for k, share in pass_at(self.tried.values()).items()},
            "truncated": self.truncated / self.rollouts if self.rollouts else 0.0,
            "prompt_tokens": self.prompt_tokens / self.rollouts if self.rollouts else None,
            "completion_tokens": self.completion_tokens / self.rollouts if self.rollouts else None,
            "metrics": {name: {"mean": sums.mean, "std": sums.std} for name, sums in sorted(self.metrics.items())},
            "timing": timing,
        }

    def _fault(self, fault: Fault) -> None:
        self.faults[fault.kind] = self.faults.get(fault.kind, 0) + 1
        seen = {(sample.kind, sample.message) for sample in self.fault_samples}
        if len(self.fault_samples) < FAULT_SAMPLES and (fault.kind, fault.message) not in seen:
            self.fault_samples.append(fault)


def pass_at(tried: Iterable[tuple[int, int]]) -> dict[int, float]:
    """For k = 1, 2, 4, ... and the most there is: how likely one of k rollouts of an example succeeds.

    `tried` has rollouts and successes of each example; the estimate is unbiased: 1 - C(n - c, k) / C(n, k), averaged
    over the examples with k rollouts or more. Source: Codex, arXiv:2107.03374, section 2.1.
    """
    tried = list(tried)
    most = max((n for n, _ in tried), default=0)
    ks = sorted({*(2**i for i in range(most.bit_length()) if 2**i <= most), most} - {0})
    found = {}
    for k in ks:
        each = [1.0 - math.comb(n - c, k) / math.comb(n, k) for n, c in tried if n >= k]
        found[k] = sum(each) / len(each)
    return found


def spread(seconds: "array[float]") -> dict[str, float] | None:
    """Mean, median and the 95th of 100."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return {"mean": math.fsum(ordered) / len(ordered), "p50": ordered[last // 2], "p95": ordered[round(0.95 * last)]}


_encode = msgspec.json.Encoder().encode
_decode_row = msgspec.json.Decoder(Row).decode
_decode_header = msgspec.json.Decoder(Header).decode


class Saved:
    """A file of rows: the header, then a line a rollout. The last line about a rollout counts."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file = path, file

    @classmethod
    def new(cls, path: Path, header: Header) -> Self:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("xb")
        file.write(_encode(header) + b"\n")
        file.flush()
        return cls(path, file)

    @classmethod
    def again(cls, path: Path, header: Header) -> "tuple[Saved, Tally, dict[int, int]]":
        """Go on with a file: what its rows add up to, and which rollouts of each example have a good row, as bits.

        Raises ConfigError when it is of another evaluation.
        """
        found = read_header(path)
        if differs := [name for name in Header.__struct_fields__ if getattr(found, name) != getattr(header, name)]:
            name = differs[0]
            raise ConfigError(
                f"{path} was made with {name} {getattr(found, name)!r}, but now it is {getattr(header, name)!r}: "
                "go on with the same, or leave out --resume"
            )
        _cut_torn_line(path)
        rows = dict(_good(path))
        tally = Tally()
        for row in rows.values():
            tally.add(row)
        done: dict[int, int] = {}
        for index, rollout in rows:
            done[index] = done.get(index, 0) | 1 << rollout
        return cls(path, path.open("ab")), tally, done

    def write(self, rows: Iterable[Row]) -> None:
        self._file.write(b"".join(_encode(row) + b"\n" for row in rows))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_header(path: Path) -> Header:
    """Raises ConfigError for a file that is none of ours."""
    try:
        with path.open("rb") as file:
            return _decode_header(file.readline())
    except FileNotFoundError as error:
        raise ConfigError(f"there is no {path}: --resume wants a file that `flash env eval` has written") from error
    except (msgspec.DecodeError, OSError) as error:
        raise ConfigError(f"{path} is no file of `flash env eval`: {error}") from error


def read_rows(path: Path) -> Iterator[Row]:
    """Every row, in the order they were written. Raises ConfigError for a line that is none."""
    with path.open("rb") as file:
        file.readline()
        for number, line in enumerate(file, start=2):
            try:
                yield _decode_row(line)
            except msgspec.DecodeError as error:
                raise ConfigError(f"{path} line {number} is no row: {error}") from error


def _good(path: Path) -> Iterator[tuple[tuple[int, int], Row]]:
    return (((row.index, row.rollout), row) for row in read_rows(path) if not row.is_lost)


def _cut_torn_line(path: Path) -> None:
    """Whoever wrote it may have died in the middle of a line."""
    with path.open("rb+") as file:
        data = file.read()
        if not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)
