"""The card of an exported model: what it is, what it was trained from, how it is loaded. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cli import metrics
from flash.client.references import Reference
from flash.client.view import RunView

MARK = "Exported by Flash"
"""Stands in the card of every export."""

ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
base = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(base, folder)
"""
WHOLE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
"""


@dataclass(frozen=True)
class Export:
    """What lies in the folder."""

    reference: Reference
    run: RunView
    step_metrics: Mapping[str, Any]
    """Of the step that was saved; empty where none are told."""
    merged: bool
    hub_id: str
    """Of the base model; empty: its weights lie beside the adapter."""
    license: str
    """Of the base model; empty: not known."""


def card(export: Export) -> str:
    """README.md, with the front matter that the Hugging Face hub reads."""
    return "\n".join([*_front_matter(export), *_about(export), *_loading(export)])


def _front_matter(export: Export) -> list[str]:
    tags = ["flash", export.run.spec.get("algorithm", ""), *([] if export.merged else ["lora"])]
    return [
        "---",
        f"library_name: {'transformers' if export.merged else 'peft'}",
        "pipeline_tag: text-generation",
        *([f"base_model: {json.dumps(export.hub_id)}"] if export.hub_id else []),
        *([f"license: {json.dumps(export.license)}"] if export.license else []),
        f"tags: {json.dumps([tag for tag in tags if tag])}",
        "---",
    ]


def _about(export: Export) -> list[str]:
    run, spec = export.run, export.run.spec
    step = export.reference.policy.version
    what = "A language model" if export.merged else "A LoRA adapter"
    base = f"[{export.hub_id}](https://huggingface.co/{export.hub_id})" if export.hub_id else f"`{_base_name(export)}`"
    rows = [
        ("base model", base),
        ("licence of the base", export.license or "not known: see where the base comes from"),
        ("algorithm", spec["algorithm"]),
        ("environment", "`{id}@{version}`".format(**spec["environment"])),
        ("run", f"`{run.run_id}`" + (f" ({spec['name']})" if spec.get("name") else "")),
        ("step", f"{step} of {run.steps or '?'}"),
        ("metrics of that step", f"`{metrics.row(spec['algorithm'], step, export.step_metrics)}`"),
        ("reward, first to last step", _rewards(run)),
        *((f"evaluated at step {e.step}", f"`{metrics.evaluated(e.step, e.metrics)}`") for e in _evaluations(export)),
        ("started from", f"`{spec['reference']}`" if spec.get("reference") not in (None, "", spec["model"]) else ""),
        ("LoRA", f"rank {export.reference.lora_rank}, alpha {export.reference.lora_alpha}"),
        ("learning rate", metrics.number(spec["train"]["learning_rate"])),
        ("seed", str(spec["seed"])),
    ]
    return [
        f"# {export.reference.text}",
        "",
        f"{what}, trained with reinforcement learning." if spec["algorithm"] == "grpo" else f"{what}, fine-tuned.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {_cell(value)} |" for name, value in rows if value),
        "",
    ]


def _cell(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|")


def _loading(export: Export) -> list[str]:
    snippet = ADAPTER.format(base=json.dumps(export.hub_id)) if export.hub_id and not export.merged else WHOLE
    lines = ["## How it is loaded", "", "`folder`: where this lies.", "", "```python", snippet.rstrip(), "```", ""]
    if not export.merged and not export.hub_id:
        lines += [
            "The base model is nowhere to be had alone, so its weights lie beside the adapter: transformers, with peft",
            "installed, loads both from a folder on disk.",
            "",
        ]
    if export.reference.thinking:
        lines += [
            "It was trained to think before it answers: apply the chat template with `enable_thinking=True`.",
            "",
        ]
    return [*lines, f"{MARK}.", ""]


def _base_name(export: Export) -> str:
    return export.reference.model.rpartition("/")[2]  # of a folder its name only: where it lay is nobody's business


def _rewards(run: RunView) -> str:
    if not run.rewards:
        return ""
    return f"{run.rewards[0]:.3f} to {run.rewards[-1]:.3f}"


def _evaluations(export: Export) -> list[Any]:
    return [e for e in export.run.evaluations if e.step <= export.reference.policy.version][-1:]
