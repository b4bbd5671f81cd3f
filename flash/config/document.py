"""Writes `docs/config.md` and `docs/config.schema.json` from the keys: `python -m flash.config.document docs`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flash.config.keys import ALGORITHMS, MOST, RunConfig
from flash.config.sentences import LATER
from flash.models import cards

SCHEMA = "config.schema.json"
DERIVED = {
    (
        "train",
        "max_length",
    ): "SFT 1024, with `thinking` 2048; GRPO 2048 + `max_tokens`; never above the model's context",
    ("train", "max_tokens"): "320, with `thinking` 1536; never above half the model's context",
    ("thinking",): "`false`; `true` for a model that always reasons",
}
"""Defaults that depend on other keys."""
REQUIRED = (("model",), ("environment", "id"))

INTRODUCTION = f"""\
# The run config

Generated from `flash/config/keys.py`; do not edit by hand.

```
model = "smollm2-135m"
algorithm = "grpo"

[environment]
id = "my-org/sums"

[train]
steps = 30
```

`flash train CONFIG --dry-run` checks a config and prints the spec that it makes, without a stack. What is not among the
keys below is refused, with the nearest key. A key's value is the person's, else the model's own, else the default here.

**Composition.** The file, then each `--config FILE` in order (tables are merged, everything else is replaced), then
each `--set KEY=VALUE`: `true` and `false`, a number, a list `[a, b]`, else a text; quotes make a text of anything.
Where a later layer switches `algorithm`, the knobs that only the old one knows are dropped, with a note.

**Editors.** [{SCHEMA}]({SCHEMA}) is a JSON Schema, and
`python -m flash.config.document DIR` writes it anywhere. With a copy beside a config, this first line lets editors that
know Taplo (in VS Code, *Even Better TOML*) complete and check it:

```
#:schema ./{SCHEMA}
```

**What the platform decides** is no key: resources, retries, the limit on a run's time, where things are stored. It
stands under `platform` in the spec that a dry run prints and that `flash status RUN --json` tells.
"""


def schema() -> dict[str, Any]:
    """What a config file must be, for editors: a JSON Schema. What needs the catalogue or several keys is not in it."""
    found = _tidy(RunConfig.model_json_schema())
    top = found["properties"]
    del top["train"]["anyOf"]
    top["train"] |= {"type": "object", "description": "How the adapter is trained."}
    found |= {"title": "Flash run config", "required": ["model", "environment"]}
    found["$defs"]["Environment"]["required"] = ["id"]
    one_or_many = found["$defs"]["GrpoTrain"]["properties"]["stop_sequences"]
    one_or_many["anyOf"] = [{"type": "string"}, {"type": one_or_many.pop("type"), "items": one_or_many.pop("items")}]
    is_grpo = {"properties": {"algorithm": {"const": "grpo"}}, "required": ["algorithm"]}
    sft, grpo = (
        {"properties": {"train": {"$ref": f"#/$defs/{ALGORITHMS[name].__name__}"}}} for name in ("sft", "grpo")
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **found,
        "if": is_grpo,
        "then": grpo,
        "else": sft,
    }


def schema_text() -> str:
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def page() -> str:
    """Every key with its type, default and meaning, for people."""
    found = schema()
    defs = found["$defs"]
    sft, grpo = (defs[ALGORITHMS[name].__name__]["properties"] for name in ("sft", "grpo"))
    tables = {key: defs[about["$ref"].rpartition("/")[2]] for key, about in _tables(found)}
    lines = [INTRODUCTION, "## Top level", ""]
    top = {key: about for key, about in found["properties"].items() if key not in (*tables, "train")}
    lines += _table((), top)
    for name, table in tables.items():
        lines += [f"## [{name}]", "", table["description"], "", *_table((name,), table["properties"])]
    both = {key: _both(about, grpo[key]) for key, about in sft.items() if key in grpo}
    lines += ["## [train]", "", *_table(("train",), both)]
    for title, one, other in (("SFT", sft, grpo), ("GRPO", grpo, sft)):
        lines += [
            f"### {title} only",
            "",
            *_table(("train",), {k: about for k, about in one.items() if k not in other}),
        ]
    lines += ["## Later", "", *(f"- `{key}`: {why.partition(':')[0]}." for key, why in LATER.items()), ""]
    lines += [*_models(), ""]
    return "\n".join(lines)


def write(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.md").write_text(page(), encoding="utf-8")
    (folder / SCHEMA).write_text(schema_text(), encoding="utf-8")


def _tidy(node: Any) -> Any:
    """Without titles, without the null that nobody can write in TOML, descriptions on one line."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    options = [option for option in node.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) == 1:
        node = {**options[0], **{key: value for key, value in node.items() if key not in ("anyOf", "default")}} | (
            {"default": node["default"]} if node.get("default") is not None else {}
        )
    tidy = {}
    for key, value in node.items():
        if (key, value) == ("maximum", MOST) or (key == "title" and isinstance(value, str)):
            continue
        tidy[key] = " ".join(value.split()) if key == "description" and isinstance(value, str) else _tidy(value)
    return tidy


def _tables(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((key, about) for key, about in found["properties"].items() if "$ref" in about)


def _both(sft: dict[str, Any], grpo: dict[str, Any]) -> dict[str, Any]:
    """One key of both algorithms, where they differ as well."""
    both = dict(sft)
    if sft.get("default") != grpo.get("default"):
        both["shown_default"] = f"SFT {_value(sft['default'])}, GRPO {_value(grpo['default'])}"
    if sft["description"] != grpo["description"]:
        both["description"] = f"SFT: {sft['description']} GRPO: {grpo['description']}"
    return both


def _table(path: tuple[str, ...], keys: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["| key | type | default | what |", "| --- | --- | --- | --- |"]
    for key, about in keys.items():
        cells = (f"`{key}`", _kind(about), _default((*path, key), about), about["description"])
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return [*lines, ""]


def _default(path: tuple[str, ...], about: dict[str, Any]) -> str:
    if path in REQUIRED:
        return "required"
    shown: str = about.get("shown_default", _value(about["default"]) if "default" in about else "–")
    return DERIVED.get(path, shown)


def _value(value: object) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _kind(about: dict[str, Any]) -> str:
    if "anyOf" in about:
        return " or ".join(_kind(option) for option in about["anyOf"])
    if values := about.get("enum", [about["const"]] if "const" in about else None):
        return ", ".join(_value(value) for value in values)
    names = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    match about["type"]:
        case "array":
            return f"list of {names[about['items']['type']]}s"
        case "object":
            inner = about.get("additionalProperties")
            return f"table of {names[inner['type']]}s" if isinstance(inner, dict) else "table"
    return str(names[about["type"]]) + _bounds(about)


def _bounds(about: dict[str, Any]) -> str:
    least, most = about.get("minimum"), about.get("maximum")
    if "exclusiveMinimum" in about:
        return f" > {about['exclusiveMinimum']:g}"
    if least is not None and most is not None:
        return f", {least:g} to {most:g}"
    return f" ≥ {least:g}" if least is not None else ""


def _models() -> list[str]:
    """The base models of the catalogue, and what they bring along."""
    lines = [
        "## Models", "",
        "The limits of each base model, and its own defaults where the general ones would not suit.", "",
        "| model | context | thinking | largest rank | weights on a GPU | SFT | GRPO |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for card in cards():
        recipes = [", ".join(f"{key} {value:g}" for key, value in recipe.items()) for recipe in (card.sft, card.grpo)]
        limits = (f"{card.context:,}", card.thinking, str(card.max_lora_rank), _size(card.memory_bytes))
        lines.append(f"| {' | '.join((f'`{card.name}`', *limits, *(recipe or '–' for recipe in recipes)))} |")
    return lines


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
