"""What a step learns from: from scored groups, or gold answers, to prompts with their answers. Pure.

Legend: G rollouts of a group, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flash.contracts.groups import GroupScored
from flash.contracts.packing import unpack_floats, unpack_ids
from flash.contracts.steps import TrainedGroup
from flash.contracts.values import Fault, Rollout, Verdict
from services.learner.advantages import advantages, is_flat
from services.learner.failures import CannotTrain


@dataclass(frozen=True)
class Answer:
    """A sequence to learn from: what follows the prompt, or a whole conversation where nothing is shared."""

    ids_T: Sequence[int]
    mask_T: Sequence[int]
    """1 on the tokens to learn from."""
    logp_sampler_T: Sequence[float] = ()
    """Empty: zeros."""
    advantage: float = 0.0


@dataclass(frozen=True)
class Tree:
    """A prompt and the answers that follow it, each by itself."""

    prompt_ids: Sequence[int]
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class GroupBatch:
    """A GRPO step's groups, weighed."""

    groups: tuple[TrainedGroup, ...]
    trees: tuple[Tree, ...]
    """Groups without variance, faults and (see `masks_truncated`) truncated rollouts are not among them."""
    rollouts: int
    """Of all groups, faults included."""
    faults: tuple[Fault, ...]


def group_batch(groups: Sequence[GroupScored], *, masks_truncated: bool) -> GroupBatch:
    """The groups in the order given, with their advantages.

    A truncated rollout (cut at `max_tokens`) earned its reward and stands in its group's mean, but teaches nothing
    when `masks_truncated`: how an unfinished answer would have ended is unknown.
    """
    trees = []
    weighed = []
    for group in groups:
        rewards_G = rewards(group)
        advantages_G = advantages(rewards_G)
        weighed.append(TrainedGroup(group=group.group, advantages=advantages_G))
        if is_flat(rewards_G):
            continue
        answers = tuple(
            _answer(group, rollout, advantage)
            for rollout, reward, advantage in zip(group.rollouts, rewards_G, advantages_G, strict=True)
            if reward is not None and not (masks_truncated and rollout.finish_reason == "length")
        )
        if taught := tuple(answer for answer in answers if any(answer.mask_T)):
            trees.append(Tree(unpack_ids(group.prompt_ids), taught))
    return GroupBatch(
        groups=tuple(weighed),
        trees=tuple(trees),
        rollouts=sum(len(group.rollouts) for group in groups),
        faults=tuple(fault for group in groups for fault in faults(group) if fault is not None),
    )


def rewards(group: GroupScored) -> list[float | None]:
    """[G] None for a fault."""
    return [
        None if fault is not None else verdict.reward
        for verdict, fault in zip(group.verdicts, faults(group), strict=True)
    ]


def faults(group: GroupScored) -> list[Fault | None]:
    """[G] what went wrong, if anything: a rollout without a reward is a fault, whatever it is called."""
    return [_fault(rollout, verdict) for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True)]


def conversation(ids_T: Sequence[int], mask_T: Sequence[int], max_length: int) -> Answer | None:
    """A gold row, cut at `max_length` tokens; None when nothing to learn from is left."""
    ids_T = ids_T[:max_length]
    mask_T = [0, *mask_T[1:max_length]]  # nothing predicts the first token
    return Answer(ids_T=ids_T, mask_T=mask_T) if any(mask_T) else None


def _fault(rollout: Rollout, verdict: Verdict) -> Fault | None:
    if (fault := verdict.fault or rollout.fault) is not None:
        return fault
    if verdict.reward is None:
        return Fault(kind="invalid-result", message="the rollout has neither a reward nor a fault")
    if verdict.reward - verdict.reward != 0.0:
        return Fault(kind="invalid-result", message=f"the reward is {verdict.reward}, which is not a finite number")
    return None


def _answer(group: GroupScored, rollout: Rollout, advantage: float) -> Answer:
    ids_T, logp_T = unpack_ids(rollout.token_ids), unpack_floats(rollout.logprobs)
    mask_T = list(rollout.mask) if rollout.mask else [1] * len(ids_T)
    if not len(ids_T) == len(logp_T) == len(mask_T):
        raise CannotTrain(
            f"a rollout of group {group.group_id} has {len(ids_T)} tokens, {len(logp_T)} logprobs and {len(mask_T)} "
            "mask entries, but each token needs one of each: the rollout service that made it is broken"
        )
    return Answer(ids_T=ids_T, mask_T=mask_T, logp_sampler_T=logp_T, advantage=advantage)
