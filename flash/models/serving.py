"""What a replica says of the model that it serves, and of what it computes on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flash.models.catalogue import ModelCard, Thinking, card, pool_of


@dataclass(frozen=True)
class Serving:
    """One replica of a pool."""

    model: str
    pool: str
    context: int
    """Tokens that the model reads; 0: not told."""
    thinking: Thinking
    device: str
    """What torch calls it: `cpu`, `cuda`, `cuda:1`."""
    accelerator: str
    """For example `NVIDIA H200`; empty: it computes on the CPU."""
    accelerator_bytes: int
    """Its memory."""

    def metadata(self) -> dict[str, str]:
        """As a replica's metadata on the bus."""
        return {name: str(value) for name, value in vars(self).items()}

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Self | None:
        """What a replica's metadata say; None for a service that serves no model."""
        if "pool" not in metadata:
            return None
        thinking = metadata.get("thinking")
        return cls(
            model=metadata.get("model", metadata["pool"]),
            pool=metadata["pool"],
            context=int(metadata.get("context") or 0),
            thinking="none" if thinking == "none" else "always" if thinking == "always" else "hybrid",
            device=metadata.get("device", ""),
            accelerator=metadata.get("accelerator", ""),
            accelerator_bytes=int(metadata.get("accelerator_bytes") or 0),
        )


def serving(model: str, place: Path, device: str) -> Serving:
    """What a replica that has loaded `model` from the folder `place` tells. `device` as in its settings."""
    import torch

    known = _card(model, place)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    about = torch.cuda.get_device_properties(device) if device.startswith("cuda") else None
    return Serving(
        model=model,
        pool=pool_of(model),
        context=known.context,
        thinking=known.thinking,
        device=device,
        accelerator=about.name if about else "",
        accelerator_bytes=about.total_memory if about else 0,
    )


def _card(model: str, place: Path) -> ModelCard:
    """The catalogue's; for a model that it does not have, what its folder says."""
    known = card(model)
    return known if known.is_listed else card(str(place.resolve()))
