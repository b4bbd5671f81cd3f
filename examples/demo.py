"""The whole of Flash in one sitting: a stack, an environment, SFT, GRPO, an evaluation of each, a word with the result.

    python examples/demo.py --model tiny
    python examples/demo.py --model smollm2-135m --seed 1

It types the commands a person would type, in a folder of its own, and fails if the model did not get better.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Lesson:
    """What a model is taught, and how much better it must get."""

    template: str
    question: str
    examples: int
    """Held-out rows of each evaluation."""
    rollouts: int
    """Attempts at each of them, sampled at temperature 1."""
    max_tokens: int
    """Of an answer, in the evaluations."""
    wanted_gain: float
    """By how much GRPO must raise the held-out success of SFT."""


LESSONS = {
    "tiny": Lesson("sort", "Sort: 7 3 9 1 5", examples=64, rollouts=4, max_tokens=24, wanted_gain=0.20),
    "smollm2-135m": Lesson(
        "larger", "Which is larger, 481 or 618?", examples=64, rollouts=4, max_tokens=12, wanted_gain=0.40
    ),
}

console = Console(stderr=True, highlight=False)


def main() -> int:
    options = parsed()
    lesson = LESSONS[options.model]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flash-demo-") as folder:
        flash = Flash(home=Path(folder) / "home", project=Path(folder) / "project")
        share_models(flash.home)
        try:
            found = taught(flash, options.model, lesson, options.seed)
        finally:
            flash("down")
    show(found, lesson, took_s=time.monotonic() - began)
    gain = found["grpo"]["success"] - found["sft"]["success"]
    if gain < lesson.wanted_gain:
        console.print(f"[red]GRPO gained {100 * gain:.0f} points; {100 * lesson.wanted_gain:.0f} were wanted")
        return 1
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=sorted(LESSONS), default="smollm2-135m")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def taught(flash: "Flash", model: str, lesson: Lesson, seed: int) -> dict[str, Any]:
    """Everything between stack up and stack down; gives the evaluations, the reward curve and an answer."""
    flash("models", "pull", model)
    flash("up", "--detach", "--model", model)
    flash("env", "setup", "--template", lesson.template, "-y")
    flash("env", "push", "--name", lesson.template, "-y")
    seeded = ("--set", f"seed={seed}")
    sft = flash.data("train", "configs/sft.toml", *seeded)["run_id"]
    grpo = flash.data("train", "configs/rl.toml", *seeded, "--set", f"train.init_from_adapter={sft}")["run_id"]
    found = {
        name: flash.data(
            "env", "eval", lesson.template, "-m", reference, "-n", str(lesson.examples), "-r", str(lesson.rollouts),
            "--split", "eval", "--temperature", "1.0", "--max-tokens", str(lesson.max_tokens),
        )
        for name, reference in {"base": model, "sft": sft, "grpo": grpo}.items()
    }  # fmt: skip
    found["curve"] = flash.data("status", grpo)["rewards"]
    found["answer"] = flash("chat", grpo, "-m", lesson.question, "--temperature", "0")
    return found


class Flash:
    """The command line, in the demo's own folder."""

    def __init__(self, home: Path, project: Path) -> None:
        self.home = home
        self._project = project
        project.mkdir(parents=True)
        home.mkdir(parents=True)
        self._binary = str(Path(sys.executable).with_name("flash"))

    def __call__(self, *words: str) -> str:
        """Run a command; gives what it printed on stdout. A command that fails ends the demo."""
        console.print(f"[bold]$ flash {' '.join(words)}")
        done = subprocess.run(
            [self._binary, *words], cwd=self._project, env=self._environment(), stdout=subprocess.PIPE
        )
        if done.returncode:
            raise SystemExit(f"`flash {' '.join(words)}` ended with {done.returncode}")
        return done.stdout.decode()

    def data(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FLASH_")}
        return kept | {"FLASH_HOME": str(self.home)}


def share_models(home: Path) -> None:
    """Models are pulled once for all demos, into the home that `flash` uses anyway."""
    models = Path.home() / ".flash" / "models"
    models.mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(models)


def show(found: dict[str, Any], lesson: Lesson, *, took_s: float) -> None:
    table = Table("policy", "reward", "success", "faults", title=f"held-out rows of `{lesson.template}`", box=None)
    for name, label in {"base": "base model", "sft": "after SFT", "grpo": "after GRPO"}.items():
        result = found[name]
        table.add_row(label, f"{result['reward']:.2f}", f"{100 * result['success']:.0f} %", str(result["faults"]))
    console.print(table)
    console.print("reward by step  " + curve(found["curve"], width=min(60, shutil.get_terminal_size().columns - 30)))
    console.print(f"{lesson.question}  →  {found['answer'].strip()}")
    console.print(f"all of it took {took_s:.0f} s")


def curve(values: list[float], *, width: int) -> str:
    """The values as a line of bars, from 0 to 1, several steps to a bar where they would not fit."""
    bars = " ▁▂▃▄▅▆▇█"
    per_bar = max(1, -(-len(values) // width))
    means = [sum(part) / len(part) for part in (values[i : i + per_bar] for i in range(0, len(values), per_bar))]
    drawn = "".join(bars[min(8, max(0, round(8 * mean)))] for mean in means)
    return f"{means[0]:.2f} {drawn} {means[-1]:.2f}" if means else "(no steps)"


if __name__ == "__main__":
    sys.exit(main())
