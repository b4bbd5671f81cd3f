"""Looking at the rows of a run before it is submitted: whatever is wrong with them is said before work is queued."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from flash.bus import Bus
from flash.client.asking import Say, ask, silence
from flash.contracts.keys import DATASET_CHUNK
from flash.contracts.plan import Plan, plan, unlearnable
from flash.contracts.preparing import DatasetMeasure, DatasetPrepare, PreparedRows, RowLengths
from flash.contracts.spec import RunSpec
from flash.errors import ConfigError, EnvironmentFault, NobodyAnswers, Unanswered
from flash.models.lengths import Lengths, sequence_limit, summed

MOST_ROWS = 16 * DATASET_CHUNK
"""So many are looked at; those behind them are met when the run is planned."""
AT_ONCE = 4
"""Chunks that are asked for at a time."""
PREPARE_S = 180.0
"""How long a scorer may take for a chunk before another is asked: it may have died."""
PATIENCE_S = 600.0
"""How long all of that may take, the packages that are installed first included."""
MEASURE_S = 60.0


@dataclass(frozen=True)
class Survey:
    """What a run finds when it starts."""

    rows: int
    """Of its split."""
    looked_at: int
    """The first so many of them."""
    digest: str
    """sha256 over those, in hex: the same rows, opened in the same way, have the same one."""
    plan: Plan
    lengths: Lengths | None
    """None where no rollout of the pool answers."""
    thoughtless: tuple[int, ...] = ()
    """Rows whose gold answer holds no thought, where the run is to learn to think from it."""


async def survey(
    bus: Bus,
    spec: RunSpec,
    sealed: bytes = b"",
    *,
    say: Say = silence,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Survey:
    """The rows of a run that is about to be submitted, rendered by a scorer and measured by its pool.

    Raises EnvironmentFault, with the author's frames, when there are none to be had, and ConfigError when the run could
    learn nothing from them.
    """
    first = await _prepared(bus, spec, 0, sealed, say)
    if not first.rows:
        raise EnvironmentFault(f"the {spec.split} split of {spec.environment.id} has no rows")
    if spec.train and spec.train.eval_every and not (await _prepared(bus, spec.of("eval"), 0, sealed, say)).rows:
        raise EnvironmentFault(f"the {spec.train.eval_split} split of {spec.environment.id} has no rows to evaluate on")
    planned = plan(spec, first.rows)
    looked_at = min(planned.rows, MOST_ROWS)
    chunks = range(-(-looked_at // DATASET_CHUNK))
    slots = asyncio.Semaphore(AT_ONCE)

    async def prepared(chunk: int) -> PreparedRows:
        async with slots:
            report = first if chunk == 0 else await _prepared(bus, spec, chunk, sealed, say)
        progress(min(looked_at, (chunk + 1) * DATASET_CHUNK), looked_at)
        return report

    reports = await asyncio.gather(*map(prepared, chunks))
    if reason := unlearnable(spec, planned, (row for report in reports for row in report.missing_output)):
        raise ConfigError(reason)
    digest = hashlib.sha256("".join(report.digest for report in reports).encode()).hexdigest()
    thoughtless = [row for report in reports for row in report.thoughtless if row < planned.rows]
    lengths = await _measured(bus, spec, looked_at, say)
    return Survey(
        first.rows, looked_at, digest, planned, lengths, tuple(thoughtless) if spec.algorithm == "sft" else ()
    )


def require_usable(spec: RunSpec, lengths: Lengths) -> None:
    """Raises ConfigError when no row is short enough to learn from."""
    if lengths.dropped < lengths.rows:
        return
    raise ConfigError(
        f"none of the {lengths.rows} rows is short enough to learn from: the shortest rows alone fill the "
        f"{sequence_limit(spec)} tokens that train.max_length and {spec.model} leave: raise it, or shorten prompts"
    )


async def _prepared(bus: Bus, spec: RunSpec, chunk: int, sealed: bytes, say: Say) -> PreparedRows:
    request = DatasetPrepare(spec=spec, chunk=chunk, sealed=sealed)
    report: PreparedRows = await ask(bus, request, timeout_s=PREPARE_S, patience_s=PATIENCE_S, say=say)
    if fault := report.fault:
        environment = spec.environment
        raise EnvironmentFault(
            f"{environment.id}@{environment.version} cannot be trained on: {fault.message}\n{fault.traceback}".rstrip()
        )
    return report


async def _measured(bus: Bus, spec: RunSpec, rows: int, say: Say) -> Lengths | None:
    tokens: list[int] = []
    dropped = 0
    for chunk in range(-(-rows // DATASET_CHUNK)):
        count = min(DATASET_CHUNK, rows - chunk * DATASET_CHUNK)
        try:
            found: RowLengths = await bus.ask(
                DatasetMeasure(pool=spec.pool, spec=spec, chunk=chunk, rows=count), MEASURE_S
            )
        except (NobodyAnswers, Unanswered) as error:
            say(f"tokens are not counted: {error}")
            return None
        tokens += found.tokens
        dropped += len(found.unusable)
    lengths = summed(tokens, dropped=dropped, spec=spec)
    require_usable(spec, lengths)
    return lengths
