"""`flash env eval`: how good a model, a checkpoint, or a model behind an endpoint is at an environment."""

import asyncio
import os
import re
import time
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from cli import authoring, metrics, output
from cli.authoring import Setup
from cli.endpoint import Endpoint, EndpointError
from cli.environments import full_id
from cli.playing import Plan, Player
from cli.results import Header, Row, Saved, Tally, judged, read_header
from cli.runs import show_faults
from cli.session import require_pool, stack
from cli.watching import Counter, detached
from envsdk.splits import SUITES
from flash import client
from flash.bus import Bus
from flash.client import Reference, RunView
from flash.client.view import after
from flash.config.keys import SPLIT
from flash.config.resolving import new_run_id, pinned, prompt_text
from flash.contracts.requests import EnvironmentVersion
from flash.contracts.spec import RunSpec, SamplingSpec
from flash.contracts.values import Verdict
from flash.errors import ConfigError, EnvironmentFault
from flash.host import Host, LoadFailed
from flash.models import card

FAILED = 1
NOUNS = ("run", "dataset", "group")
SLOTS = 32
"""Forks that score side by side: slow scorers wait for others most of the time, quick ones share one anyway."""


async def evaluate(options: Namespace) -> int | None:
    _check(options)
    if options.url:
        await _at_endpoint(options)
        return None
    return await _on_stack(options)


async def _at_endpoint(options: Namespace) -> None:
    """The environment runs here; the answers come from a server."""
    if options.split and not SPLIT.fullmatch(options.split):
        raise ConfigError(f"--split is {options.split!r}, wanted letters, digits and ._- after a letter or digit")
    output.note(f"Loading environment: {options.environment}")
    setup = authoring.setup(options.environment, options)
    setup.secrets.required()
    endpoint = Endpoint(options.url, api_key=_api_key(options.api_key_env), timeout_s=options.timeout)
    async with authoring.package(options.environment, options) as package:
        try:
            split, setup = await _split(package, setup, options)
            async with authoring.host(package, setup, options.home, slots=SLOTS) as host:
                model = options.model or await _only_model(endpoint)
                total = (await host.rows(split, 0, 1, host.about.prompt_text)).total
                header = _header(package, split, setup, options, model, endpoint.url, total)
                await _played(host, endpoint, header, package.name, options)
        except LoadFailed as failed:
            raise EnvironmentFault(f"{options.environment} cannot be used: {authoring.told(failed)}") from failed
        finally:
            await endpoint.close()


async def _played(host: Host, endpoint: Endpoint, header: Header, name: str, options: Namespace) -> None:
    if options.resume:
        saved, tally, done = Saved.again(options.resume, header)
    else:
        saved, tally, done = Saved.new(new_path(name, time.time()), header), Tally(), {}
    total, before = header.examples * header.rollouts_per_example, tally.rollouts
    plan = Plan(
        model=header.reference,
        split=header.split,
        examples=header.examples,
        rollouts=header.rollouts_per_example,
        concurrency=options.concurrency,
        prompt_text=host.about.prompt_text,
        thinking=header.thinking,
        sampling=header.sampling,
        seed=header.seed,
        deadline_s=options.deadline,
        done=done,
    )
    output.note(f"{name}, split {header.split}, {header.reference} at {header.url}")
    output.note(f"Running {header.examples} examples × {header.rollouts_per_example} rollouts = {total} total rollouts")
    if before:
        output.note(f"{before} of them are in {saved.path} already")
    began = time.perf_counter()
    try:
        with Counter("Progress:", lambda done, total: f"{done}/{total} ({done / total:.0%})") as counter:

            def keep(rows: Sequence[Row]) -> None:
                saved.write(rows)
                for row in rows:
                    tally.add(row)
                counter.show(min(tally.rollouts, total), total)

            await Player(host, endpoint, plan, keep).play()
    except (EndpointError, asyncio.CancelledError):
        output.note(f"{tally.rollouts} of {total} rollouts are in {saved.path}; go on with --resume {saved.path}")
        raise
    finally:
        saved.close()
    took_s = time.perf_counter() - began
    summary = tally.summary(took_s if not before else None)
    _tell_played(summary, tally, header, saved.path, options)


def _tell_played(summary: dict[str, Any], tally: Tally, header: Header, path: Path, options: Namespace) -> None:
    if output.wants_json(options):
        output.data({**msgspec.to_builtins(header), "state": "done", "saved": str(path), **summary})
    say = output.note if output.wants_json(options) else output.line
    say("Results:")
    for line in metrics.evaluation(summary):
        say(line)
    for fault in tally.fault_samples:
        output.note(f"fault {fault.kind}: {fault.message}")
        if fault.traceback:
            output.note(fault.traceback.rstrip())
    output.note(f"saved {path}")


async def _split(package: authoring.Package, setup: Setup, options: Namespace) -> tuple[str, Setup]:
    """Which rows, and the params to load them with, as a run's scorer does."""
    own = setup.params.get("split")
    split = options.split or own
    if split is None:
        async with authoring.host(package, setup, options.home) as host:
            split = held_out(host.about.splits) or host.about.split
    if split == (own or "train"):
        return str(split), setup
    return str(split), replace(setup, params={**setup.params, "split": split})


def _header(
    package: authoring.Package,
    split: str,
    setup: Setup,
    options: Namespace,
    model: str,
    url: str,
    total: int,
) -> Header:
    sampling = {"temperature": options.temperature}
    if options.max_tokens:
        sampling["max_tokens"] = options.max_tokens
    return Header(
        environment=package.name,
        digest=package.digest,
        split=split,
        reference=model,
        url=url,
        params=dict(setup.params),
        pip=list(setup.pip),
        thinking=setup.thinking,
        examples=min(total, options.examples) if options.examples else total,
        rollouts_per_example=options.rollouts,
        sampling=sampling,
        seed=options.seed,
    )


def held_out(splits: Collection[str]) -> str | None:
    """What an evaluation plays unless it is told: the author's suites, else the rows kept for it."""
    return next((split for split in (SUITES, "eval") if split in splits), None)


def new_path(name: str, now: float) -> Path:
    """`evals/NAME/TIME.jsonl`, a file that is not there yet."""
    folder = Path("evals") / re.sub(r"[^A-Za-z0-9._-]+", "-", name.partition("@")[0])
    stem = time.strftime("%Y-%m-%dT%H-%M-%S", time.localtime(now))
    paths = (folder / f"{stem}{suffix}.jsonl" for suffix in ("", *(f"-{n}" for n in range(2, 1_000))))
    return next(path for path in paths if not path.exists())


def _api_key(variable: str | None) -> str:
    if variable is None:
        return ""
    if not os.environ.get(variable):
        raise ConfigError(f"--api-key-env is {variable}, but that variable is not set here")
    return os.environ[variable]


async def _only_model(endpoint: Endpoint) -> str:
    models = await endpoint.models()
    if len(models) == 1:
        return models[0]
    found = f"serves {', '.join(models[:10])}" if models else "does not say which models it serves"
    raise ConfigError(f"--model is missing, and {endpoint.url} {found}: name one")


async def _on_stack(options: Namespace) -> int | None:
    """A run that trains nothing."""
    if options.model is None and options.resume is None:
        raise ConfigError("--model is missing: name a base model, RUN or RUN/step-N, or an endpoint with --url")
    async with stack(options) as bus:
        watching = _Watching(options.resume) if options.resume else await _submitted(bus, options)
        try:
            await watching.watch(bus)
        except asyncio.CancelledError:
            output.note(detached(watching.header.run_id))
            if watching.saved:
                output.note(f"  gather its rows: flash env eval {options.environment} --resume {watching.saved.path}")
            raise
        finally:
            if watching.saved:
                watching.saved.close()
    return _tell(watching, options)


async def _submitted(bus: Bus, options: Namespace) -> "_Watching":
    output.note(f"Loading environment: {options.environment}")
    setup = authoring.setup(options.environment, options)
    secrets = setup.secrets.required()
    environment = await client.pin(bus, full_id(options.environment, bus.org), say=output.note)
    environment = await client.with_params(
        bus, environment, setup.params, setup.pip, setup.worker_env, secrets, say=output.note
    )
    reference = await client.resolve_reference(bus, options.model)
    if reference.note:
        output.note(reference.note)
    spec = evaluation(environment, setup, reference, options, org=bus.org, run_id=new_run_id(time.time()))
    await require_pool(bus, spec, options)
    output.note(f"{environment.id}@{environment.version}, split {spec.split}, {spec.reference}, run {spec.run_id}")
    sealed = await client.sealed_for_run(bus, spec, secrets, say=output.note)
    await client.submit(bus, spec, sealed, say=output.note)
    return _Watching(header_of(spec))


def header_of(spec: RunSpec) -> Header:
    """What the rows of a run are kept under; how many examples there are is known when it is planned."""
    assert spec.sampling is not None, "an evaluation samples"
    return Header(
        environment=f"{spec.environment.id}@{spec.environment.version}",
        digest=spec.environment.digest,
        split=spec.split,
        reference=spec.reference,
        run_id=spec.run_id,
        params=spec.environment.params,
        pip=spec.environment.pip,
        thinking=spec.thinking,
        examples=0,
        rollouts_per_example=spec.sampling.group_size,
        sampling={"temperature": spec.sampling.temperature, "max_tokens": spec.sampling.max_tokens},
        seed=spec.seed,
    )


def evaluation(
    environment: EnvironmentVersion, setup: Setup, reference: Reference, options: Namespace, *, org: str, run_id: str
) -> RunSpec:
    """The run that plays the rows and trains nothing. A checkpoint thinks as it was trained, a base model as set up."""
    model_card = card(reference.model)
    trained = bool(reference.policy.key)
    thinking = reference.thinking if trained else setup.thinking and model_card.thinking != "none"
    max_tokens = options.max_tokens or (1_536 if thinking else int(model_card.grpo.get("max_tokens", 320)))
    return RunSpec(
        org=org,
        run_id=run_id,
        algorithm="eval",
        model=reference.model,
        pool=reference.pool,
        seed=options.seed,
        environment=pinned(environment, setup.params, setup.pip, setup.network, setup.secrets.values, setup.worker_env),
        split=options.split or setup.params.get("split") or held_out(environment.rows) or "train",
        prompt_text=prompt_text(environment, setup.params),
        thinking=thinking,
        sampling=SamplingSpec(group_size=options.rollouts, temperature=options.temperature, max_tokens=max_tokens),
        policy=reference.policy,
        reference=reference.text,
        max_examples=options.examples,
    )


class _Watching:
    """A run as it is played: its rows are kept as they are told."""

    def __init__(self, of: Header | Path) -> None:
        """A run that was just submitted, or the file of one that was left."""
        self.saved: Saved | None = None
        self.tally, self._done = Tally(), dict[int, int]()
        if isinstance(of, Path):
            self.header = read_header(of)
            if not self.header.run_id:
                raise ConfigError(f"{of} was made with --url {self.header.url}: go on with the same")
            self.saved, self.tally, self._done = Saved.again(of, self.header)
        else:
            self.header = of
        self.seen = RunView(self.header.run_id)

    async def watch(self, bus: Bus) -> None:
        """Until the run is over."""
        each = self.header.rollouts_per_example
        with Counter("Progress:", lambda done, total: f"{done}/{total} ({done / total:.0%})") as counter:
            async for event in client.follow(bus, self.header.run_id, nouns=NOUNS, say=output.note):
                self.seen = after(self.seen, event)
                total = self.seen.rows * each
                if event.event.startswith("run.planned."):
                    output.note(f"Running {self.seen.rows} examples × {each} rollouts = {total} total rollouts")
                    self._keep_in_file()
                if event.event.startswith("group.scored."):
                    self._keep(event.body)
                    counter.show(self.seen.step * each, total)

    def summary(self) -> dict[str, Any]:
        """What the run says of itself, and what can be told of its rows besides."""
        counted = self.tally.summary()
        ours = {name: counted[name] for name in ("pass_at", "faults_by_kind")}
        took_s = (self.seen.ended_at or 0.0) - self.seen.submitted_at
        per_s = self.tally.rollouts / took_s if took_s > 0 else None
        timing = {"score_s": counted["timing"]["score_s"], "took_s": took_s, "rollouts_per_s": per_s}
        return {**ours, "timing": timing if per_s else {}, **self.seen.metrics}

    def _keep_in_file(self) -> None:
        if self.saved is None:
            self.header = msgspec.structs.replace(self.header, examples=self.seen.rows)
            self.saved = Saved.new(new_path(self.header.environment.partition("/")[2], time.time()), self.header)

    def _keep(self, body: Mapping[str, Any]) -> None:
        rows = [row for row in rows_of(body) if not self._done.get(row.index, 0) >> row.rollout & 1]
        if self.saved:
            self.saved.write(rows)
        for row in rows:
            self.tally.add(row)


def rows_of(body: Mapping[str, Any]) -> list[Row]:
    """The rollouts of a scored group, as the recorder tells them: without tokens."""
    example = body["example"]
    found = []
    for number, (rollout, verdict) in enumerate(zip(body["rollouts"], body["verdicts"], strict=True)):
        row = Row(
            index=example["index"],
            example=example["id"],
            rollout=number,
            prompt=example.get("messages") or [],
            completion=rollout.get("text", ""),
            finish_reason=rollout.get("finish_reason", "stop"),
        )
        found.append(judged(row, msgspec.convert(verdict, Verdict)))
    return found


def _tell(watching: _Watching, options: Namespace) -> int | None:
    seen, header = watching.seen, watching.header
    id, _, version = header.environment.partition("@")
    path = str(watching.saved.path) if watching.saved else None
    if output.wants_json(options):
        output.data(
            {
                "run_id": seen.run_id,
                "state": seen.state,
                "environment": id,
                "version": version,
                "split": header.split,
                "reference": header.reference,
                "examples": seen.rows,
                "reason": seen.reason,
                "saved": path,
                **(watching.summary() if seen.state == "done" else {}),
            }
        )
    say = output.note if output.wants_json(options) else output.line
    if seen.state == "done":
        say("Results:")
        for line in metrics.evaluation(watching.summary()):
            say(line)
    else:
        output.note(f"{seen.run_id} is {seen.state}: {seen.reason}")
    show_faults(seen)
    if path:
        output.note(f"saved {path}")
    return None if seen.state == "done" else FAILED


def _check(options: Namespace) -> None:
    for name, value, least in (
        ("-n", options.examples, 0),
        ("-r", options.rollouts, 1),
        ("--temperature", options.temperature, 0),
        ("--max-tokens", options.max_tokens, 1),
        ("--concurrency", options.concurrency, 1),
    ):
        if value is not None and not value >= least:
            raise ConfigError(f"{name} is {value}, but {least} or more is wanted")
