"""Metrics as people read them. Pure."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

COLUMNS: Mapping[str, Sequence[str]] = {
    "grpo": (
        "reward", "reward_std", "grad_norm", "kl", "entropy", "frac_zero_std", "comp_len", "trunc", "lag", "pickup_s",
    ),
    "sft": ("epoch", "loss", "grad_norm", "learning_rate", "tokens"),
}  # fmt: skip
"""What a metric row shows, after `step`."""

BLOCKS = "▁▂▃▄▅▆▇█"


def row(algorithm: str, step: int, metrics: Mapping[str, Any]) -> str:
    """`step=3 reward=0.531 ...`: what the learner told of a step, in a fixed order."""
    shown = [f"{name}={number(metrics[name])}" for name in COLUMNS.get(algorithm, ()) if name in metrics]
    return " ".join([f"step={step}", *shown])


def number(value: Any) -> str:
    """At most four digits that matter."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e6 else f"{value:.4g}"


def curve(values: Sequence[float], *, width: int = 40) -> str:
    """A line of blocks, one a value, or one a stretch of values where there are more than fit."""
    if not values:
        return ""
    count = min(width, len(values))
    bounds = [len(values) * i // count for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(bounds)]
    low, high = min(means), max(means)
    if high == low:
        return BLOCKS[0] * count
    return "".join(BLOCKS[round((mean - low) / (high - low) * (len(BLOCKS) - 1))] for mean in means)


def percent(share: float) -> str:
    return f"{share:.1%}"


def evaluation(summary: Mapping[str, Any]) -> list[str]:
    """The lines under `Results:` for what `run.completed` says of an evaluation."""
    lines = [_spread("Reward", summary["reward"], summary.get("reward_std"))]
    if summary.get("success") is not None:
        lines.append(f"Success: {percent(summary['success'])}")
    if len(pass_at := summary.get("pass_at") or {}) > 1:
        lines.append("  ".join(f"pass@{k}: {percent(share)}" for k, share in pass_at.items()))
    lines += [_spread(name, m["mean"], m["std"]) for name, m in sorted((summary.get("metrics") or {}).items())]
    rollouts, faults = summary.get("rollouts", 0), summary.get("faults", 0)
    kinds = ", ".join(f"{count} {kind}" for kind, count in (summary.get("faults_by_kind") or {}).items())
    lines.append(f"Faults: {faults} of {rollouts} rollouts" + (f" ({kinds})" if kinds else ""))
    if summary.get("error_rate"):
        lines.append(f"Errors that the environment tells of: {percent(summary['error_rate'])}")
    if summary.get("truncated") is not None:
        lines.append(f"Truncated: {percent(summary['truncated'])}")
    if summary.get("completion_tokens") is not None:
        lines.append(f"Tokens per answer: {summary['completion_tokens']:.1f}")
    return lines + _timing(summary.get("timing") or {})


def evaluated(step: int, summary: Mapping[str, Any]) -> str:
    """A policy of a training run on its evaluation split, in one line."""
    names = ("reward", "reward_std", "success", "rollouts", "faults")
    shown = [f"{name}={number(summary[name])}" for name in names if summary.get(name) is not None]
    return " ".join([f"step={step}", *shown])


def _spread(name: str, mean: float | None, std: float | None) -> str:
    if mean is None:
        return f"{name}: none was given"
    return f"{name}: {mean:.2f}" + ("" if std is None else f" ± {std:.2f}")


def _timing(timing: Mapping[str, Any]) -> list[str]:
    shown = []
    for name, what in (("generate_s", "An answer took"), ("score_s", "Scoring it took")):
        if found := timing.get(name):
            shown.append(f"{what}: {_span(found['p50'])}, 95 of 100 at most {_span(found['p95'])}")
    if timing.get("took_s"):
        shown.append(f"Took: {timing['took_s']:.1f} s, {timing['rollouts_per_s']:.1f} rollouts a second")
    return shown


def _span(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
