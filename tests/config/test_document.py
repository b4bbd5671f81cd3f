"""The page on the run config and its JSON Schema: flash/config/document.py."""

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from flash.config import document
from tests.config.test_keys import GRPO, KEYS, MODEL, at

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    path
    for part in ("examples", "cli/templates", "bench")
    for path in (ROOT / part).rglob("*.toml")
    if "model" in path.read_text()
)
VALIDATOR = jsonschema.Draft202012Validator(document.schema())


def is_taken(config: dict[str, Any]) -> bool:
    return bool(VALIDATOR.is_valid(config))


def written(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "environment": {"id": "local/x"}, **more}


def test_the_page_and_the_schema_are_current() -> None:
    assert (ROOT / "docs/config.md").read_text() == document.page()
    assert json.loads((ROOT / "docs/config.schema.json").read_text()) == document.schema()


def test_the_page_tells_every_key() -> None:
    told = document.page()

    assert [key for key in KEYS if f"| `{key.rpartition('.')[2]}` |" not in told and f"## [{key}]" not in told] == []


@pytest.mark.parametrize("path", CONFIGS, ids=[str(path.relative_to(ROOT)) for path in CONFIGS])
def test_a_config_of_ours_fits_the_schema(path: Path) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(tomllib.loads(path.read_text()))] == []


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, about in KEYS.items() for value in about.valid])
def test_what_a_key_takes_the_schema_takes(key: str, value: Any) -> None:
    assert is_taken(at(key, value, {**written(), **KEYS[key].beside}))


@pytest.mark.parametrize(
    "more",
    [
        {"sed": 3},
        {"seed": -1},
        {"thinking": 1},
        {"train": {"epochs": "2"}},
        {"train": {"epochs": 0}},
        {"train": {"learning_rate": 0}},
        {"train": {"group_size": 8}},
        {**GRPO, "train": {"epochs": 2}},
        {**GRPO, "train": {"loss": "ppo"}},
        {**GRPO, "train": {"stop_sequences": [3]}},
        {"environment": {}},
        {"environment": {"id": "local/x", "pip": "nltk"}},
        {"worker_env": {"A": 3}},
        {"model": 3},
    ],
)
def test_an_editor_marks_what_is_wrong(more: dict[str, Any]) -> None:
    assert is_taken(written())
    assert not is_taken(written(**more))
