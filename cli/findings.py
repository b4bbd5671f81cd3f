"""What `env test` makes of the verdicts on its replies. Pure: each finding is one sentence."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cli import metrics
from cli.replies import GOLD, gold_text
from envsdk.thinking import CLOSE, OPEN
from flash.contracts.values import Example, Fault, Verdict

SAME = 1e-9
"""Rewards that differ by no more are the same."""


@dataclass(frozen=True)
class Finding:
    """Something that training would suffer from."""

    check: str
    message: str
    traceback: str = ""


@dataclass(frozen=True)
class Scored:
    """A reply to a row, and what became of it."""

    row: int
    """Counted from 1."""
    reply: str
    """Its name."""
    verdict: Verdict

    @property
    def is_gold(self) -> bool:
        return self.reply == GOLD

    @property
    def reward(self) -> float | None:
        return self.verdict.reward


@dataclass
class Targets:
    """What SFT would learn from a split, counted row by row."""

    rows: int = 0
    missing: list[int] = field(default_factory=list)
    """Rows without output, counted from 1."""
    empty: list[int] = field(default_factory=list)
    thoughtless: list[int] = field(default_factory=list)
    """Rows whose output has no thought."""

    def add(self, examples: Iterable[Example]) -> None:
        for example in examples:
            self.rows += 1
            if example.completion is None:
                self.missing.append(self.rows)
                continue
            if _is_empty(example):
                self.empty.append(self.rows)
            text = gold_text(example)
            if text is not None and not (OPEN in text and CLOSE in text):
                self.thoughtless.append(self.rows)


def of_targets(targets: Targets, algorithm: str) -> tuple[list[Finding], list[str]]:
    """What SFT would miss in a split, and what is worth knowing."""
    if len(targets.missing) == targets.rows and algorithm != "sft":
        note = "no row has an output: SFT has nothing to learn from, and whether right answers are paid cannot be told"
        return [], [note]
    found = []
    if targets.missing:
        found.append(Finding("targets", f"{_rows(targets.missing)} no output, the target of SFT: it would refuse them"))
    if targets.empty:
        found.append(Finding("targets", f"{_rows(targets.empty)} an output that says nothing: SFT would teach to stop"))
    return found, []


def of_rewards(scored: Sequence[Scored]) -> list[Finding]:
    """A scorer that cannot tell answers apart, or pays the wrong ones."""
    rewards = [one.reward for one in scored if one.reward is not None]
    if not rewards:
        return []
    has_gold = any(one.is_gold and one.reward is not None for one in scored)
    if max(rewards) - min(rewards) > SAME:
        return of_junk(scored)
    if abs(rewards[0]) <= SAME:
        if not has_gold:
            return []
        return [Finding("rewards", f"the scorer gives 0 to all {len(rewards)} answers, the expected ones included")]
    right_or_wrong = "right or wrong" if has_gold else "though none makes sense"
    found = f"the scorer gives {metrics.number(rewards[0])} to all {len(rewards)} answers, {right_or_wrong}"
    return [Finding("rewards", found)]


def of_junk(scored: Iterable[Scored]) -> list[Finding]:
    """Rows where a junk reply earns more than the expected one."""
    gold: dict[int, float] = {}
    junk: dict[int, Scored] = {}
    for one in scored:
        if one.reward is None:
            continue
        if one.is_gold:
            gold[one.row] = one.reward
        elif one.row not in junk or one.reward > (junk[one.row].reward or 0.0):
            junk[one.row] = one
    worse = [
        (row, reward, junk[row])
        for row, reward in gold.items()
        if row in junk and (junk[row].reward or 0.0) > reward + SAME
    ]
    if not worse:
        return []
    row, reward, best = worse[0]
    others = f", and in {len(worse) - 1} more rows" if len(worse) > 1 else ""
    found = f"{best.reply} earns {metrics.number(best.reward)} where the expected answer earns {metrics.number(reward)}"
    return [Finding("junk", f"{found}: row {row}{others}")]


def of_faults(scored: Iterable[Scored]) -> list[Finding]:
    """One finding for each way in which the scorer fails, with the first reply that met it."""
    met: dict[tuple[str, str], list[Scored]] = {}
    for one in scored:
        if (fault := one.verdict.fault) is not None:
            met.setdefault((fault.kind, _place(fault)), []).append(one)
    return [_fault(found) for found in met.values()]


def of_order(row: int, names: Sequence[str], runs: Iterable[tuple[Sequence[int], Sequence[Verdict]]]) -> list[Finding]:
    """The same replies to a row in several orders: each run has places in `names`, and their verdicts."""
    seen: dict[int, tuple[float, str]] = {}
    for places, verdicts in runs:
        before = ""
        for place, verdict in zip(places, verdicts, strict=True):
            after = f"after {before}" if before else "at first"
            if verdict.reward is not None:
                reward, when = seen.setdefault(place, (verdict.reward, after))
                if abs(reward - verdict.reward) > SAME:
                    found = (
                        f"the reward depends on the order of calls, or on chance: {names[place]} to row {row} earns "
                        f"{metrics.number(reward)} {when} and {metrics.number(verdict.reward)} {after}"
                    )
                    return [Finding("order", found)]
            before = names[place]
    return []


def slowest(scored: Iterable[Scored]) -> tuple[float, str]:
    """The longest call that ended, in seconds, and what it scored."""
    return max(((one.verdict.took_s, one.reply) for one in scored), default=(0.0, ""))


def metric_names(scored: Iterable[Scored]) -> list[str]:
    names: Mapping[str, None] = {metric.name: None for one in scored for metric in one.verdict.metrics}
    return list(names)


def _fault(met: Sequence[Scored]) -> Finding:
    first = next((one for one in met if one.is_gold), met[0])
    fault = first.verdict.fault
    assert fault is not None
    others = f", and on {len(met) - 1} other replies" if len(met) > 1 else ""
    where = f"on {first.reply} (row {first.row}{others})"
    variable = _variable(fault)
    if variable:
        found = f"the scorer reads the variable {variable}, which is not set for it: {where}"
        return Finding("secrets", f"{found}; name it in `[environment] secrets` of the config")
    does = {
        "raised": f"the scorer raises {where}: {fault.message}",
        "timed-out": f"the scorer hangs {where}: {fault.message}",
        "crashed": f"the scorer brings its process down {where}: {fault.message}",
        "limit-exceeded": f"the scorer needs more than it may have {where}: {fault.message}",
        "invalid-result": f"the scorer gives no reward {where}: {fault.message}",
    }
    return Finding("faults", does.get(fault.kind, f"{fault.kind} {where}: {fault.message}"), fault.traceback)


def _place(fault: Fault) -> str:
    """Where in the author's code it happened: one place is one finding, whatever the reply was."""
    frames = [line.strip() for line in fault.traceback.splitlines() if line.lstrip().startswith("File ")]
    return frames[-1] if frames else fault.message.partition(":")[0]


def _variable(fault: Fault) -> str:
    """The environment variable that was looked for in vain; empty for other faults."""
    lines = fault.traceback.strip().splitlines()
    looked = any("environ[" in line for line in lines)
    return lines[-1].removeprefix("KeyError: ").strip("'\"") if looked and lines[-1].startswith("KeyError: ") else ""


def _is_empty(example: Example) -> bool:
    turns = [turn for turn in example.completion or [] if turn.get("role") == "assistant"]
    return not any(turn.get("tool_calls") or str(turn.get("content") or "").strip() for turn in turns)


def _rows(rows: Sequence[int]) -> str:
    shown = ", ".join(str(row) for row in rows[:5]) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
    return f"row {shown} has" if len(rows) == 1 else f"rows {shown} have"
