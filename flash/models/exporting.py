"""What of a base model goes with an adapter that is taken elsewhere. Copies files, and loads no torch."""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from flash.errors import FlashError, NotFound
from flash.models.catalogue import OnHub, card

TOKENIZER = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "chat_template*",
    "LICENSE*",
)  # fmt: skip
BASE = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")
_LICENSE = re.compile(r"^license: *[\"']?([A-Za-z0-9.+-]+)", re.MULTILINE)


def hub_id(model: str) -> str:
    """Where anybody can get the very same base model; empty: nowhere."""
    source = card(model).source
    return source.repo if isinstance(source, OnHub) else ""


def license_of(model: str, folder: Path) -> str:
    """As its own card says, else as the catalogue; empty where neither does."""
    readme = folder / "README.md"
    said = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    if said.startswith("---") and (found := _LICENSE.search(said.split("\n---", 1)[0])):
        return found[1]
    try:
        return card(model).license
    except NotFound:  # a folder that has moved since
        return ""


def copy_tokenizer(base: Path, into: Path) -> None:
    """With its chat template, and the licence where there is a copy of it."""
    _copy(base, into, TOKENIZER)


def copy_base(base: Path, into: Path) -> None:
    _copy(base, into, BASE)


def merge(base: Path, adapter: Path, into: Path) -> None:
    """The whole model with the adapter added in. Raises FlashError where that cannot be done here."""
    if find_spec("torch") is None or find_spec("peft") is None:
        raise FlashError("merging needs torch and peft, which are not installed here: pip install 'flash-rl[local]'")
    # In a process of its own: it needs torch, and the whole model in memory; whoever exports should stay light.
    command = [sys.executable, "-P", "-m", "flash.models.merging", str(base), str(adapter), str(into)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise FlashError(f"the adapter could not be merged into {base}: {said[-1]}")


def _copy(base: Path, into: Path, patterns: tuple[str, ...]) -> None:
    for file in {file for pattern in patterns for file in base.glob(pattern) if file.is_file()}:
        shutil.copyfile(file, into / file.name)  # what a link leads to, not the link
