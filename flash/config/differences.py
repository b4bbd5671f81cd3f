"""What a config says that nobody would have had to write."""

from typing import Any

from flash.config.keys import RunConfig
from flash.config.run import checked


def differences(config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """The knobs that differ from what the model and the algorithm stand at by themselves: (value, default)."""
    bare = {name: getattr(config, name) for name in ("model", "algorithm", "thinking", "model_policy")
            if name in RunConfig.model_fields}  # fmt: skip
    plain = checked(bare)
    pairs = {f"train.{name}": (getattr(config.train, name), getattr(plain.train, name, None))
             for name in type(config.train).model_fields}  # fmt: skip
    pairs["seed"] = (config.seed, plain.seed)
    return {key: (value, default) for key, (value, default) in pairs.items() if value is not None and value != default}
