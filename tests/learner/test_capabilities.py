"""What an architecture allows is proved, not assumed."""

from typing import Any

import pytest
import torch

from flash.errors import ConfigError
from services.learner import capabilities
from services.learner.capabilities import prove
from services.learner.loss import DrGrpo
from services.learner.policy import Base


def hybrid() -> Any:
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

    torch.manual_seed(0)
    config = Qwen3_5TextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        max_position_embeddings=256,
    )
    return Qwen3_5ForCausalLM(config).float().eval()


def test_full_attention_allows_every_shortcut(make: Any) -> None:
    found = prove(make.random_qwen3())

    assert found.share
    assert found.split_head


def test_a_hybrid_with_recurrent_layers_is_padded(make: Any) -> None:
    base = Base(hybrid(), "hybrid")
    policy = base.fresh(rank=2, alpha=4, seed=0)

    assert not base.capabilities.share
    assert (
        policy.update(make.random_trees(), DrGrpo(96.0), learning_rate=1e-3, cut=make.cut(256)).metrics["grad_norm"] > 0
    )


def test_leaking_is_found_by_the_numbers_even_where_the_config_claims_full_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capabilities, "_attends_fully", lambda model: True)

    assert not prove(hybrid()).share


def test_a_sliding_window_is_not_replaced_by_our_mask(make: Any) -> None:
    windowed = make.random_qwen3(use_sliding_window=True, sliding_window=16, max_window_layers=0)

    assert not prove(windowed).share


def test_a_model_that_minds_padding_is_refused(make: Any) -> None:
    model = make.random_qwen3()
    plain = model.forward
    model.forward = lambda **given: plain(
        **{key: value for key, value in given.items() if key != "position_ids"}
        | {"position_ids": torch.zeros_like(given["input_ids"]) + given["input_ids"].shape[0]}
    )

    with pytest.raises(ConfigError, match="padding"):
        prove(model)
