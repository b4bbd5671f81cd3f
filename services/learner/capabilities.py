"""What an architecture allows, proved on random tokens when it is loaded, not looked up in a list.

Hybrids with recurrent layers, such as Qwen3.5, give other numbers when sequences share a row, and raise nothing.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from flash.errors import ConfigError
from services.learner.batch import Answer, Tree
from services.learner.forward import logprobs
from services.learner.rows import micro_batches

TOLERANCE = 1e-4
"""Nats by which two ways to the same log-probability may differ in float32."""


@dataclass(frozen=True)
class Capabilities:
    """Which shortcuts give the same log-probabilities as the long way."""

    share: bool
    """Prompts shared and sequences packed under a 4-D mask."""
    split_head: bool
    """The head run on answer positions only."""


@torch.no_grad()
def prove(model: Any) -> Capabilities:
    """Compare each shortcut with one plain pass a sequence.

    Raises ConfigError for a model that does not even allow rows padded on the right: it cannot be trained here.
    """
    trees = _random_trees(model.config.get_text_config().vocab_size)
    truth_N = _one_by_one(model, trees)
    padded = micro_batches(trees, max_tokens=10_000, share=False)
    shared = micro_batches(trees, max_tokens=10_000, share=True)

    def gap(batches: list[Any], *, split_head: bool) -> float:
        return _gap(truth_N, _in_order(model, batches, split_head=split_head))

    # Coarser arithmetic than float32 is held to its own noise, which padding alone shows.
    noise = gap(padded, split_head=False)
    exact = next(model.parameters()).dtype == torch.float32
    allowed = TOLERANCE if exact else max(TOLERANCE, 2 * noise)
    if noise > (TOLERANCE if exact else 0.5):
        raise ConfigError(
            f"{type(model).__name__} gives log-probabilities {noise:.1e} nats apart with and without padding on the "
            f"right, at most {TOLERANCE} was expected: this architecture cannot be trained in batches here"
        )
    split_head = _has_head(model) and gap(padded, split_head=True) <= allowed
    share = _attends_fully(model) and gap(shared, split_head=False) <= allowed
    return Capabilities(share=share, split_head=split_head)


def _random_trees(vocabulary: int) -> list[Tree]:
    draw = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        drawn: list[int] = torch.randint(0, vocabulary, (count,), generator=draw).tolist()
        return drawn

    def tree(prompt: int, *answers: int) -> Tree:
        return Tree(ids(prompt), tuple(Answer(ids(n), [1] * n) for n in answers))

    return [tree(9, 5, 1, 7), tree(4, 3, 6), Tree([], (Answer(ids(6), [0] + [1] * 5),))]


def _one_by_one(model: Any, trees: list[Tree]) -> Tensor:
    """[N] in the order of sequences."""
    logps = []
    for tree in trees:
        for answer in tree.answers:
            ids = torch.tensor([[*tree.prompt_ids, *answer.ids_T]], device=next(model.parameters()).device)
            logits = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
            logp = logits[:-1].gather(1, ids[0, 1:, None])[:, 0]
            logps.append(logp[max(0, len(tree.prompt_ids) - 1) :])
    return torch.cat(logps).cpu()


def _in_order(model: Any, batches: list[Any], *, split_head: bool) -> Tensor:
    """[N] in the order of sequences, whatever order the rows are in."""
    found = [logprobs(model, batch, split_head=split_head)[0].cpu() for batch in batches]
    sequence_N = list(chain.from_iterable(batch.sequence_N.tolist() for batch in batches))
    order = sorted(range(len(sequence_N)), key=lambda n: sequence_N[n])
    return torch.cat(found)[order]


def _gap(truth_N: Tensor, found_N: Tensor) -> float:
    return float((truth_N - found_N).abs().max())


def _has_head(model: Any) -> bool:
    return hasattr(model, "get_decoder") and model.get_output_embeddings() is not None


def _attends_fully(model: Any) -> bool:
    """A 4-D mask replaces a sliding window as well, which a few random tokens are too short to show."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return set(kinds) == {"full_attention"}
    return getattr(config, "sliding_window", None) is None or getattr(config, "use_sliding_window", True) is False
