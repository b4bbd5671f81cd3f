"""`flash train --cost`: what a run would take, reckoned on this machine; nothing is submitted, and no stack is needed.

The environment's folder is loaded in a host, as a run loads it, to count its rows; their tokens are counted where the
model lies here. The speed is that of the stack's newest run of the model, else the last one measured, else arithmetic.
"""

import math
import os
from argparse import Namespace
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cli import authoring, output, planned
from cli.session import quiet, stack
from cli.speeds import last_measured
from flash import client
from flash.client import speed as speeds
from flash.client.surveying import MOST_ROWS, require_usable
from flash.config.keys import RunConfig
from flash.config.resolving import resolve
from flash.config.secrets import find
from flash.contracts.keys import DATASET_CHUNK
from flash.contracts.plan import Plan, plan, unlearnable
from flash.contracts.preparing import RowLengths
from flash.contracts.requests import EnvironmentVersion
from flash.contracts.spec import RunSpec
from flash.contracts.values import Example
from flash.errors import ConfigError, EnvironmentFault, FlashError, NotFound
from flash.host import LoadFailed
from flash.models import card, folder
from flash.models.lengths import Lengths, measured, summed
from flash.models.rendering import load_tokenizer

PRICE_VARIABLE = "FLASH_PRICE_PER_HOUR"
CORE_FLOPS = 25e9
"""What a core of a CPU is taken to do in a second, where nothing was ever measured."""
CHARS_PER_TOKEN = 4


@dataclass(frozen=True)
class Speed:
    """Tokens that go through the model in a second of the run."""

    tokens_per_s: float
    source: str
    """Where the figure comes from."""


async def cost(config: RunConfig, options: Namespace) -> None:
    """Print it. Raises a FlashError for rows that the run could not use."""
    quiet(options)
    place = _place(options)
    price = _price(options)
    rows, digest, spec = await _counted(config, place, options)
    planned_run = plan(spec, rows.total)
    if reason := unlearnable(spec, planned_run, rows.missing_output):
        raise ConfigError(reason)
    lengths, how = _lengths(spec, rows.examples[: planned_run.rows], options)
    require_usable(spec, lengths)
    per_step = tokens_per_step(spec, planned_run, lengths)
    speed, differs = await _asked(config, spec, digest, place, options)
    took_s = per_step * planned_run.steps / speed.tokens_per_s
    total = None if price is None else price * took_s / 3600
    if output.wants_json(options):
        output.data(
            {
                "rows": rows.total, "steps": planned_run.steps, "tokens": {**asdict(lengths), "counted": how},
                "tokens_per_step": round(per_step), "tokens_per_s": speed.tokens_per_s, "speed": speed.source,
                "time_s": round(took_s, 1), "price_per_hour": price, "total": total, "folder": str(place),
                "differs_from_published": differs,
            }
        )  # fmt: skip
        return
    train = spec.train
    assert train is not None, "a config trains"
    at_most = "at most " if spec.sampling else ""
    told = {
        "folder": f"{place}{_compared(config, differs)}",
        "rows": f"{spec.split}, {rows.total:,}",
        "tokens": f"{planned.tokens(spec, lengths)}, {how}",
        "steps": planned.steps(spec, train, planned_run),
        "each step": f"{planned.each_step(spec, train, planned_run)}: {at_most}{per_step:,.0f} tokens",
        "speed": f"{speed.tokens_per_s:,.0f} tokens a second, {speed.source}",
        "time": f"{at_most}{output.ago(math.ceil(took_s))}",
        "total": f"no price is stated: --price-per-hour, or {PRICE_VARIABLE}" if total is None
        else f"{at_most}{total:,.2f}, at {price:g} an hour",
    }  # fmt: skip
    for name, value in told.items():
        for line in output.field(name, value):
            output.line(line)


def tokens_per_step(spec: RunSpec, planned_run: Plan, lengths: Lengths) -> float:
    """Tokens that go through the model in a step; of GRPO at most, as nobody knows yet how long answers will be.

    SFT: sequences × their mean length. GRPO: prompts × (their mean length + group_size × max_tokens).
    """
    answers = spec.sampling.group_size * spec.sampling.max_tokens if spec.sampling else 0
    return planned_run.prompts_per_step * (lengths.mean + answers)


def arithmetic(spec: RunSpec, parameters: int, cores: int) -> Speed:
    """6 operations a parameter and token for learning, 2 more for sampling, on so many cores."""
    per_token = parameters * (8 if spec.sampling else 6)
    source = (
        f"an estimate: {per_token / parameters:g} × {parameters:,} parameters a token on {cores} cores of "
        f"{CORE_FLOPS / 1e9:g} GFLOP/s each; nothing was measured yet"
    )
    return Speed(cores * CORE_FLOPS / per_token, source)


@dataclass(frozen=True)
class _Rows:
    """Of the run's split."""

    total: int
    examples: Sequence[Example]
    """The first `MOST_ROWS`."""

    @property
    def missing_output(self) -> list[int]:
        return [example.index for example in self.examples if not example.completion]


async def _counted(config: RunConfig, place: Path, options: Namespace) -> tuple[_Rows, str, RunSpec]:
    """The rows of the folder, its digest, and the spec as far as it can be told here."""
    own = config.environment
    setup = authoring.Setup(
        params=own.params, pip=own.pip, network=own.network, worker_env=config.worker_env,
        secrets=find(own.secrets, options.config),
        thinking=config.thinking,
    )  # fmt: skip
    async with authoring.package(str(place), options) as package:
        spec = _spec(config, package.digest)
        try:
            async with authoring.host(package, setup, options.home) as host:
                text = str(own.params.get("contract_text") or host.about.prompt_text)
                examples: list[Example] = []
                async with aclosing(host.every_page(spec.split, DATASET_CHUNK, text)) as pages:
                    async for page in pages:
                        examples += page.examples
                        if len(examples) >= MOST_ROWS:
                            break
        except LoadFailed as failed:
            raise EnvironmentFault(f"{place} cannot be loaded: {authoring.told(failed)}") from failed
    if not examples:
        raise EnvironmentFault(f"the {spec.split} split of {place} has no rows")
    return _Rows(page.total, examples), package.digest, spec


def _spec(config: RunConfig, digest: str) -> RunSpec:
    """As far as it can be told here: nothing is published, and no checkpoint is looked up."""
    name, _, version = config.environment.id.partition("@")
    here = EnvironmentVersion(
        id=name or "local/unpublished", version=version, digest=digest, key="", packed_bytes=0, published_at=0.0
    )
    return resolve(config, here, run_id="not-submitted")


def _lengths(spec: RunSpec, examples: Sequence[Example], options: Namespace) -> tuple[Lengths, str]:
    """How long the rows are, and how that is known."""
    try:
        tokenizer = load_tokenizer(folder(spec.model, options.home))
    except NotFound:
        found = RowLengths(tokens=[_guessed(spec, example) for example in examples])
        return _summed(found, spec), f"guessed at {CHARS_PER_TOKEN} characters each: {spec.model} is not here"
    return _summed(measured(tokenizer, examples, spec), spec), "counted"


def _summed(found: RowLengths, spec: RunSpec) -> Lengths:
    return summed(found.tokens, dropped=len(found.unusable), spec=spec)


def _guessed(spec: RunSpec, example: Example) -> int:
    messages = [*example.messages, *((example.completion or []) if spec.algorithm == "sft" else [])]
    return math.ceil(sum(len(str(message.get("content") or "")) for message in messages) / CHARS_PER_TOKEN)


async def _asked(
    config: RunConfig, spec: RunSpec, digest: str, place: Path, options: Namespace
) -> tuple[Speed, bool | None]:
    """How fast, and whether the folder differs from what is published; None where nobody can say."""
    found: speeds.Speed | None = None
    differs: bool | None = None
    with suppress(FlashError):
        async with stack(options) as bus:
            found = await speeds.measured(bus, spec.model, spec.algorithm)
            if config.environment.id:
                differs = (await client.pin(bus, config.environment.id)).digest != digest
    if found:
        return Speed(found.tokens_per_s, f"measured on this stack, run {found.run_id}"), differs
    if last := last_measured(options.home, spec.model, spec.algorithm):
        return Speed(last.tokens_per_s, f"as it was last measured here, run {last.run_id}"), differs
    return arithmetic(spec, card(spec.model).parameters, os.cpu_count() or 1), differs


def _compared(config: RunConfig, differs: bool | None) -> str:
    if differs is None:
        return "; not compared with what is published: no stack was asked" if config.environment.id else ""
    return f"; it {'differs from' if differs else 'is'} what {config.environment.id} is now"


def _place(options: Namespace) -> Path:
    """The environment's folder. Raises ConfigError where there is none to be found."""
    given: Path | None = options.env
    found = given or next((f for f in options.config.resolve().parents if (f / "environment.py").is_file()), None)
    if found is None or not found.exists():
        looked = f"{given} is not there" if given else f"no folder above {options.config} has an environment.py"
        raise ConfigError(f"--cost counts the rows of the environment's folder, but {looked}: name it with --env PATH")
    return found


def _price(options: Namespace) -> float | None:
    """What an hour costs; None where nobody said. Raises ConfigError for what is no price."""
    text: Any = options.price_per_hour or os.environ.get(PRICE_VARIABLE)
    if not text:
        return None
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not 0 <= price < math.inf:
        raise ConfigError(f"--price-per-hour is {text}, but a number that is 0 or more is wanted, for example 2.50")
    return price
