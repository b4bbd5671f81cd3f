"""Rollout engines on the CPU, one thread each: useful tokens for a CPU second, beside transformers' `generate`.

    python -m bench.engine                          the tiny model
    python -m bench.engine --model smollm2-135m     once it has been pulled

Where `make vllm` has been, vLLM draws the same rows too: given them directly, and through our engine over it.

8 prompts of 96 to 160 tokens with 8 samples each, 16 to 128 tokens long, drawn with LoRA adapters of rank 16 on all
linear layers. A row of the table is an engine with the base model, one adapter, or several that share the batch.

    switch_ms    CPU milliseconds by which the first token of an adapter that the engine has never seen costs more
    ratio        useful tokens for a CPU second / those of `generate` with one adapter, not merged
    vllm_ratio   our engine over vLLM / vLLM without us
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import interleaved, last_line, median_ratio, show
from bench.parts import ROOT, Part, end_in_order, python
from flash.models import folder as model_folder

VLLM = ROOT / ".venv-vllm" / "bin" / "python"
OURS_ON_VLLM = "ours on vllm"
SWITCHES = 8
"""How many adapters, unseen before, the switch is measured with."""


def main() -> None:
    given = arguments().parse_args()
    end_in_order()
    with tempfile.TemporaryDirectory(prefix="flash-bench-") as place:
        folder = model_folder(given.model, Path.home() / ".flash")
        adapters = made_adapters(folder, Path(place), max(*given.adapters, 1) + SWITCHES)
        with parts(folder, Path(place)) as started:
            switches = {
                name: median(part.ask("switch", adapters=adapters[-SWITCHES:])["switch_ms"])
                for name, part in started.items()
                if name != "generate"
            }
            sides = dict(turns(started, adapters, given.adapters))
            for draw in sides.values():
                draw(0, longest=4)  # what happens only once
            found = interleaved(given.rounds, sides)
    report(given.model, found, switches)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.engine")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--adapters", type=int, nargs="+", default=[0, 1, 4, 8], help="how many share a batch, a row each; 0: the base"
    )
    return parser


def made_adapters(model: Path, place: Path, count: int) -> list[str]:
    """As the learner writes them, each far enough from zero to matter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from bench.engine_parts import RANK

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    peft: Any = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))
    folders = []
    for number in range(count):
        torch.manual_seed(number)
        for name, weight in peft.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.02)
        folders.append(str(place / f"adapter-{number}"))
        peft.save_pretrained(folders[-1])
    return folders


@contextmanager
def parts(folder: Path, place: Path) -> Iterator[Mapping[str, Part]]:
    """A process for each side, warm and idle."""
    interpreters = {"generate": sys.executable, "torch": sys.executable}
    if VLLM.exists():
        interpreters |= {"vllm": str(VLLM), OURS_ON_VLLM: str(VLLM)}
    with ExitStack() as stack:
        found = {}
        for name, interpreter in interpreters.items():
            command = python("bench.engine_parts", name, str(folder), interpreter=interpreter)
            found[name] = Part(name, command, log=place / f"{name}.log")
            stack.callback(found[name].stop)
        yield found


def turns(
    started: Mapping[str, Part], adapters: list[str], counts: list[int]
) -> Iterator[tuple[str, Callable[..., float]]]:
    for name, part in started.items():
        for count in counts if name != "generate" else [1]:

            def draw(number: int, part: Part = part, count: int = count, **more: int) -> float:
                said = part.ask("draw", adapters=adapters[:count], number=number, **more)
                return float(said["tokens_per_cpu_s"])

            yield case(name, count), draw


def case(engine: str, count: int) -> str:
    return f"{engine}, " + ({0: "base", 1: "1 adapter"}.get(count) or f"{count} adapters")


def report(model: str, found: Mapping[str, list[float]], switches: Mapping[str, float]) -> None:
    peer = found[case("generate", 1)]
    ratios = {name: median_ratio(speeds, peer) for name, speeds in found.items()}
    show(
        f"{model}: useful tokens for a CPU second, one thread, float32; medians of {len(peer)} rounds",
        ["engine", "tokens / CPU s", "min", "max", "x generate"],
        [
            (name, f"{median(speeds):.0f}", f"{min(speeds):.0f}", f"{max(speeds):.0f}", f"{ratios[name]:.2f}")
            for name, speeds in found.items()
        ],
    )
    show(
        "what an adapter never seen before costs",
        ["engine", "CPU ms"],
        [(name, f"{ms:.1f}") for name, ms in switches.items()],
    )
    figures = {word(name): ratio for name, ratio in ratios.items() if not name.startswith("generate")}
    ours = {name: name.replace(OURS_ON_VLLM, "vllm") for name in found if name.startswith(OURS_ON_VLLM)}
    figures |= {f"{word(name)}_vllm_ratio": median_ratio(found[name], found[direct]) for name, direct in ours.items()}
    print(last_line("engine", **figures, **{f"{word(name)}_switch_ms": ms for name, ms in switches.items()}))


def word(name: str) -> str:
    return name.replace(", ", "_").replace(" ", "_")


if __name__ == "__main__":
    main()
