"""One question, one answer: what is asked of hub and scheduler. A service that is still starting is waited for."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from flash.bus import Bus
from flash.contracts.base import Request
from flash.contracts.environments import EnvironmentVersions, VersionsPage
from flash.contracts.hosting import CheckReport, EnvironmentCheck, ScorerKey, SealingKey
from flash.contracts.requests import (
    EnvironmentList,
    EnvironmentListing,
    EnvironmentResolve,
    EnvironmentVersion,
    RunCancel,
    RunDelete,
    RunGet,
    RunList,
    RunListing,
    RunResume,
    RunState,
    RunSubmit,
)
from flash.contracts.spec import RunSpec
from flash.errors import EnvironmentFault, NobodyAnswers, Refused, Unanswered

_KEY_PATIENCE_S = 600.0
"""A scorer that starts is waited for: without it nothing can be sealed."""

_CLOSED_S = 150.0
"""How long the record of a run may take to be closed after its end."""

LISTED = 500
"""How many runs one answer holds."""

Say = Callable[[str], object]
"""Hears what a person may want to know while they wait."""


def silence(note: str) -> None:
    """Nobody wants to know."""


async def ask(
    bus: Bus,
    request: Request,
    *,
    timeout_s: float = 10.0,
    patience_s: float = 30.0,
    pause_s: float = 0.5,
    say: Say = silence,
) -> Any:
    """The reply to a request that may be asked twice, asked again while nobody answers.

    Raises NobodyAnswers or Unanswered when `patience_s` is over, and at once what the service raised.
    """
    return await _patiently(lambda: bus.ask(request, timeout_s), request, patience_s, pause_s, say)


async def gathered(
    bus: Bus,
    request: Request,
    *,
    timeout_s: float = 10.0,
    patience_s: float = 30.0,
    pause_s: float = 0.5,
    say: Say = silence,
) -> list[Any]:
    """The same of a request that streams: all its replies."""

    async def streamed() -> list[Any]:
        return [part async for part in bus.stream(request, timeout_s)]

    found: list[Any] = await _patiently(streamed, request, patience_s, pause_s, say)
    return found


async def _patiently(
    work: Callable[[], Awaitable[Any]], request: Request, patience_s: float, pause_s: float, say: Say
) -> Any:
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience_s
    waiting = ""
    while True:
        try:
            return await work()
        except (NobodyAnswers, Unanswered) as error:
            if clock() >= deadline:
                raise type(error)(
                    f"{request.service} did not answer {request.name} within {patience_s:g} s ({error}): "
                    "`flash ps` shows what runs"
                ) from error
            if waiting != str(error):
                waiting = str(error)
                say(f"waiting for the {request.service}: {waiting}")
        await asyncio.sleep(pause_s)


async def submit(
    bus: Bus, spec: RunSpec, sealed: Mapping[str, bytes] = MappingProxyType({}), *, say: Say = silence
) -> RunState:
    """Start a run. Submitted twice with one run id, it is one run. `sealed`: secrets, by the service they are for."""
    state: RunState = await ask(bus, RunSubmit(spec=spec, sealed=dict(sealed)), say=say)
    return state


async def sealed_for_run(
    bus: Bus, spec: RunSpec, values: Mapping[str, str], to: type[Request] = ScorerKey, *, say: Say = silence
) -> dict[str, bytes]:
    """What `submit` takes: values that only the pool that `to` asks for its key can open, and for that run only."""
    if not values:
        return {}
    from flash.secrets import of_run  # it costs a moment, and few runs have any

    return {to.service: await _sealed(bus, to(), values, of_run(spec.org, spec.run_id), say)}


async def sealed_for_archive(bus: Bus, digest: str, values: Mapping[str, str], *, say: Say = silence) -> bytes:
    """Values that a scorer checks that archive with; empty for none."""
    if not values:
        return b""
    from flash.secrets import of_archive

    return await _sealed(bus, ScorerKey(), values, of_archive(digest), say)


async def cancel(bus: Bus, run_id: str) -> RunState:
    """Ask a run to stop. Raises NotFound, and Refused for a run that is over."""
    state: RunState = await ask(bus, RunCancel(org=bus.org, run_id=run_id))
    return state


async def delete(bus: Bus, run_id: str, *, say: Say = silence) -> None:
    """Let nothing be left of a run that is over. Raises NotFound, and Refused where a live run needs it."""
    await ask(bus, RunDelete(org=bus.org, run_id=run_id), patience_s=_CLOSED_S, say=say)


async def resume(bus: Bus, run_id: str) -> RunState:
    """Reopen a run. Raises NotFound, also for a withdrawn version, and Refused where there is nothing to resume."""
    known = await standing(bus, run_id)
    if not known.ended_at:
        raise Refused(f"run {run_id} is {known.state}: there is nothing to resume")
    await pin(bus, known.environment)
    state: RunState = await ask(bus, RunResume(org=bus.org, run_id=run_id, attempt=known.attempt + 1))
    return state


async def standing(bus: Bus, run_id: str, *, patience_s: float = 30.0) -> RunState:
    """How a run stands, and what it waits for. Raises NotFound."""
    state: RunState = await ask(bus, RunGet(org=bus.org, run_id=run_id), patience_s=patience_s)
    return state


async def runs(bus: Bus, *, states: Sequence[str] = (), most: int | None = None) -> RunListing:
    """The newest runs, as many as asked for; `total` says how many there are."""
    found: list[RunState] = []
    while True:
        limit = LISTED if most is None else min(LISTED, most - len(found))
        asked = RunList(org=bus.org, states=list(states), limit=limit, offset=len(found))
        page: RunListing = await ask(bus, asked)
        found += page.runs
        if not page.runs or len(found) >= (page.total if most is None else min(most, page.total)):
            return RunListing(runs=found, total=page.total)


async def pin(bus: Bus, reference: str, *, say: Say = silence) -> EnvironmentVersion:
    """The version that `org/name` or `org/name@version` means now. Raises NotFound."""
    version: EnvironmentVersion = await ask(bus, EnvironmentResolve(reference=reference), say=say)
    return version


async def with_params(
    bus: Bus,
    version: EnvironmentVersion,
    params: Mapping[str, Any],
    pip: Sequence[str] = (),
    worker_env: Mapping[str, str] = MappingProxyType({}),
    secrets: Mapping[str, str] = MappingProxyType({}),
    *,
    check_s: float = 180.0,
    patience_s: float = 600.0,
    say: Say = silence,
) -> EnvironmentVersion:
    """The version as it is with a run's params: where they name a file for the system text, a scorer reads it.

    Raises EnvironmentFault, with the author's traceback, when the package does not load with them.
    """
    if params.get("contract_text") or not params.get("contract_path"):
        return version
    sealed = await sealed_for_archive(bus, version.digest, secrets, say=say)
    check = EnvironmentCheck(
        key=version.key,
        digest=version.digest,
        params=dict(params),
        pip=list(pip),
        worker_env=dict(worker_env),
        sealed=sealed,
    )
    report: CheckReport = await ask(bus, check, timeout_s=check_s, patience_s=patience_s, say=say)
    if report.fault:
        raise EnvironmentFault(
            f"{version.id} cannot be loaded: {report.fault.message}\n{report.fault.traceback}".rstrip()
        )
    return msgspec.structs.replace(version, prompt_text=report.prompt_text, rows=report.rows)


async def _sealed(bus: Bus, to: Request, values: Mapping[str, str], purpose: str, say: Say) -> bytes:
    from flash.secrets import seal

    key: SealingKey = await ask(bus, to, patience_s=_KEY_PATIENCE_S, say=say)
    return seal(values, key.public, purpose)


async def environments(bus: Bus) -> list[EnvironmentVersion]:
    """The newest version of each environment, by name."""
    pages: list[EnvironmentListing] = await gathered(bus, EnvironmentList(org=bus.org))
    return [version for page in pages for version in page.environments]


async def versions(bus: Bus, environment: str) -> tuple[list[EnvironmentVersion], str]:
    """Every version of `org/name`, last published first, and which of them the bare id means. Raises NotFound."""
    pages: list[VersionsPage] = await gathered(bus, EnvironmentVersions(reference=environment))
    return [version for page in pages for version in page.versions], pages[0].newest if pages else ""
