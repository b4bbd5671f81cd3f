"""What a config says that nobody would have had to write."""

from typing import Any

from flash.config.keys import RunConfig
from flash.config.run import checked


def differences(config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """The knobs that differ from what the model and the algorithm stand at by themselves: (value, default)."""
    bare = {"algorithm": config.algorithm, "thinking": config.thinking, "model_policy": config.model_policy}
    plain = checked({"model": config.model, **bare})
    found = {"seed": (config.seed, plain.seed)}
    for name in type(config.train).model_fields:
        found[f"train.{name}"] = (getattr(config.train, name), getattr(plain.train, name))
    return {key: pair for key, pair in found.items() if pair[0] is not None and pair[0] != pair[1]}
