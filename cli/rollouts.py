"""`flash rollouts`: every attempt of a run, filtered and sorted; one of them whole; all of them as Parquet."""

import re
import shutil
from argparse import Namespace
from typing import Any

import msgspec

from cli import output
from cli.session import stack
from flash.client.rollouts import export_rollouts, find_rollouts
from flash.contracts.record import RecordedRollout, RolloutsExport, RolloutsFind, RolloutsPage
from flash.contracts.values import Message
from flash.errors import ConfigError, NotFound

_NAME = re.compile(r"((?:train|eval)-\d+-\d+)/(\d+)")


async def rollouts(options: Namespace) -> None:
    asked = _asked(options)
    async with stack(options) as bus:
        asked["org"] = bus.org
        if options.export:
            path = await export_rollouts(bus, RolloutsExport(**asked), options.export)
            output.line(str(path))
            output.note(f"pandas.read_parquet({str(path)!r}) opens it, and datasets.Dataset.from_parquet")
            return
        page = await find_rollouts(
            bus, RolloutsFind(**asked, limit=options.limit, offset=options.offset, tokens=bool(options.rollout))
        )
    if options.rollout and not page.rollouts:
        raise NotFound(
            f"{options.run_id} has no rollout {options.rollout}: `flash rollouts {options.run_id}` lists them"
        )
    if output.wants_json(options):
        found = [_as_data(rollout) for rollout in page.rollouts]
        output.data(found[0] if options.rollout else {"run_id": options.run_id, "total": page.total, "rollouts": found})
    elif options.rollout:
        show(page.rollouts[0])
    else:
        _list(page, options)


def name(rollout: RecordedRollout) -> str:
    """What a rollout is called: its group and its place in it."""
    return f"{rollout.group_id}/{rollout.index}"


def show(rollout: RecordedRollout) -> None:
    """One rollout, whole."""
    facts = [
        ("rollout", name(rollout)),
        ("example", rollout.example_id),
        ("reward", _number(rollout.reward)),
        ("advantage", _number(rollout.advantage)),
        ("metrics", " ".join(f"{key}={value}" for key, value in rollout.metrics.items())),
        ("finish", rollout.finish_reason),
        ("tokens", len(rollout.token_ids) or ""),
        ("policy", f"version {rollout.policy_version}"),
        ("environment", f"version {rollout.environment_version}" if rollout.environment_version else ""),
        ("fault", f"{rollout.fault.kind}: {rollout.fault.message}" if rollout.fault else ""),
    ]
    for label, value in facts:
        if value != "":
            output.line(f"{label:<12}{value}")
    if rollout.fault and rollout.fault.traceback:
        output.line(rollout.fault.traceback.rstrip())
    for message in rollout.prompt:
        _part(f"prompt, {message.get('role')}" if len(rollout.prompt) > 1 else "prompt", message)
    for message in rollout.completion:
        _part("" if message.get("role") == "assistant" else str(message.get("role")), message)


def reasoning_and_answer(text: str) -> tuple[str, str]:
    """What the policy thought, and what it said. A thought that has no end leaves no answer."""
    thought, end, answer = text.rpartition("</think>")
    if end:
        return thought.strip().removeprefix("<think>").strip(), answer.strip()
    if text.lstrip().startswith("<think>"):
        return text.strip().removeprefix("<think>").strip(), ""
    return "", text.strip()


def _asked(options: Namespace) -> dict[str, Any]:
    """Raises ConfigError for what no rollout can be called, and for counts below what makes sense."""
    for option, value, least in (("-n", options.limit, 1), ("--offset", options.offset, 0)):
        if value < least:
            raise ConfigError(f"{option} is {value}, but {least} or more is wanted")
    asked = {
        "run_id": options.run_id, "step": options.step, "example": options.example,
        "min_reward": options.min_reward, "max_reward": options.max_reward, "faults": options.faults,
        "where": options.where, "sort": [_column(words.split()) for words in options.sort.split(",") if words.strip()],
    }  # fmt: skip
    if options.rollout:
        if (found := _NAME.fullmatch(options.rollout)) is None:
            raise ConfigError(
                f"{options.rollout!r} is no rollout: they are called like train-3-1/0, see the first column"
            )
        asked |= {"group_id": found[1], "index": int(found[2])}
    return asked


def _column(words: list[str]) -> str:
    match words:
        case [column] | [column, "asc"]:
            return column
        case [column, "desc"]:
            return f"-{column}"
    raise ConfigError(f"--sort has {' '.join(words)!r}, but a column is wanted, and desc behind it if it shall fall")


def _list(page: RolloutsPage, options: Namespace) -> None:
    if not page.rollouts:
        output.note(f"{options.run_id} has no such rollout" if page.total == 0 else f"there are only {page.total}")
        return
    rows = [
        (name(rollout), rollout.example_id, _number(rollout.reward), _number(rollout.advantage), _gist(rollout))
        for rollout in page.rollouts
    ]
    columns = ("ROLLOUT", "EXAMPLE", "REWARD", "ADVANTAGE", "ANSWER")
    used = sum(max(len(row[at]) for row in (columns, *rows)) + 2 for at in range(4))
    width = max(20, shutil.get_terminal_size().columns - used)
    output.table(
        columns,
        [(*row[:4], row[4] if len(row[4]) <= width else f"{row[4][: width - 1]}…") for row in rows],
    )
    last = options.offset + len(page.rollouts)
    output.note(f"{options.offset + 1} to {last} of {page.total}" + (f"; on: --offset {last}" * (last < page.total)))
    output.note(f"one of them whole: flash rollouts {options.run_id} {name(page.rollouts[0])}")


def _gist(rollout: RecordedRollout) -> str:
    """What came of it, in a line."""
    if rollout.fault:
        return " ".join(f"{rollout.fault.kind}: {rollout.fault.message}".split())
    said = [str(m.get("content") or "") for m in rollout.completion if m.get("role") == "assistant"]
    thought, answer = reasoning_and_answer(said[-1]) if said else ("", "")
    cut = " (cut)" if rollout.finish_reason == "length" else ""
    return " ".join((answer or (f"thought: {thought}" if thought else "")).split()) + cut


def _part(label: str, message: Message) -> None:
    text = str(message.get("content") or "")
    calls = message.get("tool_calls")
    if label:
        parts = [(label, text)]
    else:
        thought, answer = reasoning_and_answer(text)
        parts = [("reasoning", str(message.get("reasoning_content") or "") or thought), ("answer", answer)]
    for head, body in [*parts, ("calls", msgspec.json.encode(calls).decode() if calls else "")]:
        if body or (head == "answer" and not calls):
            output.line(f"\n-- {head}\n{body}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _as_data(rollout: RecordedRollout) -> dict[str, Any]:
    found: dict[str, Any] = {"rollout": name(rollout), **msgspec.to_builtins(rollout)}
    if not rollout.token_ids:
        for unasked in ("prompt_ids", "token_ids", "logprobs", "mask"):
            del found[unasked]
    return found
