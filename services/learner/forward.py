"""Log-probabilities of answer tokens, by one pass of the model over a micro-batch.

Legend: B rows, W tokens of the longest, D width of the model, N answer tokens, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from services.learner.rows import MicroBatch

LOGITS_AT_ONCE = 2**25
"""Logits held at a time (128 MiB in float32); beyond, they are computed again in the backward pass, piece by piece."""


def logprobs(
    model: Any, batch: MicroBatch, *, temperature: float = 1.0, split_head: bool = True
) -> tuple[Tensor, Tensor]:
    """[N] log-probabilities, in nats, of the answer tokens, with gradient; and [N] entropies, without.

    Both are of softmax(logits / temperature). Temperature 0 stands for 1: it has no distribution to train.
    `split_head`: run the head on answer positions only, which an architecture must allow (see `capabilities`).
    """
    device = next(model.parameters()).device
    at = (batch.row_N.to(device), batch.column_N.to(device))
    hidden_ND: Any = _run(model.get_decoder() if split_head else model, batch, device, hidden=split_head)[at]
    head = model.get_output_embeddings() if split_head else torch.nn.Identity()
    target_N = batch.target_N.to(device)
    vocabulary = model.config.get_text_config().vocab_size
    pieces = max(1, LOGITS_AT_ONCE // vocabulary)
    if len(target_N) <= pieces:
        return _score(head, hidden_ND, target_N, temperature or 1.0)
    scored = [
        checkpoint(_score, head, hidden, target, temperature or 1.0, use_reentrant=False)
        for hidden, target in zip(torch.split(hidden_ND, pieces), torch.split(target_N, pieces), strict=True)
    ]
    return torch.cat([logp for logp, _ in scored]), torch.cat([entropy for _, entropy in scored])


def _run(module: Any, batch: MicroBatch, device: torch.device, *, hidden: bool) -> Tensor:
    # use_cache=False is load-bearing: with a cache, transformers takes no notice of packing, and sequences leak.
    out = module(
        input_ids=batch.ids_BW.to(device),
        position_ids=batch.positions_BW.to(device),
        attention_mask=_mask(batch, next(module.parameters()).dtype).to(device),
        use_cache=False,
    )
    result: Tensor = out.last_hidden_state if hidden else out.logits
    return result


def _mask(batch: MicroBatch, dtype: torch.dtype) -> Tensor:
    if batch.sees_BWW is None:
        return batch.real_BW.long()
    bias_BWW = torch.zeros(batch.sees_BWW.shape, dtype=dtype)
    return bias_BWW.masked_fill(~batch.sees_BWW, torch.finfo(dtype).min)[:, None]


def _score(head: Any, hidden_ND: Tensor, target_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits_NV = head(hidden_ND).float()
    if temperature != 1.0:
        logits_NV = logits_NV / temperature
    logp_NV = torch.log_softmax(logits_NV, dim=-1)
    with torch.no_grad():
        entropy_N = -(logp_NV.exp() * logp_NV).sum(-1)
    return logp_NV.gather(1, target_N[:, None])[:, 0], entropy_N
