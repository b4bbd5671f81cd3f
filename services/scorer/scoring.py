"""What the environment's verdicts make of a group, and its rows of a dataset. Pure."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from envsdk.thinking import CLOSE, OPEN
from flash.contracts.groups import GroupCancelled, GroupGenerated, GroupScored
from flash.contracts.preparing import PreparedRows
from flash.contracts.runs import DatasetFailed, DatasetPrepared, DatasetRequested
from flash.contracts.spec import RunSpec
from flash.contracts.values import Example, Fault, Message, Rollout, Verdict

_MISSING_NAMED = 100
_CARRIED = tuple(
    field
    for field in GroupGenerated.__struct_fields__
    if field in GroupScored.__struct_fields__ and field not in ("verdicts", "replica", "took_s")
)


def to_score(rollouts: Sequence[Rollout]) -> list[int]:
    """Which rollouts have an answer: one that could not be generated is not scored."""
    return [index for index, rollout in enumerate(rollouts) if rollout.fault is None]


def every_verdict(rollouts: Sequence[Rollout], scored: Mapping[int, Verdict]) -> list[Verdict]:
    """A verdict for each rollout: the environment's, or the fault of its generation."""
    return [scored.get(index) or Verdict(fault=rollout.fault) for index, rollout in enumerate(rollouts)]


def shortened(rollouts: Sequence[Rollout], verdicts: Sequence[Verdict], coef: float) -> list[Verdict]:
    """The verdicts, each reward less `coef` for every token that was thought: success stays the environment's.

    reward = the environment's - coef × tokens inside the think spans
    """
    return [
        msgspec.structs.replace(verdict, reward=verdict.reward - coef * rollout.thinking_tokens)
        if coef and verdict.reward is not None and rollout.thinking_tokens
        else verdict
        for rollout, verdict in zip(rollouts, verdicts, strict=True)
    ]


def group_scored(event: GroupGenerated, verdicts: list[Verdict], **told: Any) -> GroupScored:
    """All that was generated, and what it earned."""
    return GroupScored(**{field: getattr(event, field) for field in _CARRIED}, verdicts=verdicts, **told)


def group_given_up(event: GroupGenerated, reason: str) -> list[GroupScored]:
    """Nobody can score it: every rollout is a fault."""
    fault = Fault(kind="crashed", message=f"the group could not be scored: {reason}")
    verdicts = [Verdict(fault=rollout.fault or fault) for rollout in event.rollouts]
    return [group_scored(event, verdicts)]


def missing_output(examples: Sequence[Example]) -> list[int]:
    """Rows without gold output, as far as they are named."""
    return [example.index for example in examples if not example.completion][:_MISSING_NAMED]


def prepared_rows(examples: Sequence[Example], total: int, *, thinking: bool) -> PreparedRows:
    """What is told of a chunk before a run is submitted."""
    digest = hashlib.sha256(encode_examples(examples)).hexdigest()
    without = [example.index for example in examples if example.completion and not _thinks(example.completion)]
    return PreparedRows(
        rows=total, digest=digest, missing_output=missing_output(examples), thoughtless=without if thinking else []
    )


def _thinks(gold: Sequence[Message]) -> bool:
    """What is said at the end holds a thought."""
    said = [str(turn.get("content") or "") for turn in gold if turn.get("role") == "assistant"]
    return bool(said) and OPEN in said[-1] and CLOSE in said[-1]


def group_cancelled(event: GroupGenerated) -> GroupCancelled:
    """Nobody wants to know any more what it earns."""
    return GroupCancelled(
        org=event.org, run_id=event.run_id, attempt=event.attempt, scope=event.scope, step=event.step, group=event.group
    )


def dataset_prepared(event: DatasetRequested, examples: Sequence[Example], total: int, key: str) -> DatasetPrepared:
    return DatasetPrepared(
        org=event.org,
        run_id=event.run_id,
        chunk=event.chunk,
        scope=event.scope,
        rows=total,
        key=key,
        missing_output=missing_output(examples),
    )


def dataset_failed(event: DatasetRequested, fault: Fault) -> DatasetFailed:
    return DatasetFailed(
        org=event.org, run_id=event.run_id, attempt=event.attempt, chunk=event.chunk, scope=event.scope, fault=fault
    )


def dataset_given_up(event: DatasetRequested, reason: str) -> list[DatasetFailed]:
    return [dataset_failed(event, Fault(kind="load-failed", message=f"the rows could not be prepared: {reason}"))]


def load_params(spec: RunSpec) -> dict[str, Any]:
    """What the environment is loaded with: the run's params, and its split unless that is the default anyway."""
    params = dict(spec.environment.params)
    return params if spec.split == params.get("split", "train") else {**params, "split": spec.split}


def encode_examples(examples: Sequence[Example]) -> bytes:
    return msgspec.msgpack.encode(list(examples))


def decode_examples(data: bytes) -> list[Example]:
    return msgspec.msgpack.decode(data, type=list[Example])
