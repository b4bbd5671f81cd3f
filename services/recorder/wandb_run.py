"""The process that shows one run on Weights & Biases: `python -m services.recorder.wandb_run`. Alone imports wandb.

It is told on stdin, a line of JSON each: what the run is, with the key, which stands in no argument, variable or file;
then its steps, always from the first on; then its end. What W&B has already is left out, so that whoever goes on for
one that died sends nothing twice. It says on stdout, likewise, that it has begun, or in a sentence why it cannot.
"""

import json
import os
import re
import sys
from typing import Any


def main() -> None:
    import wandb

    told = json.loads(sys.stdin.readline())
    try:
        run = wandb.init(
            id=told["run_id"], project=told["project"], name=told["name"], tags=told["tags"], notes=told["note"],
            config=told["config"], dir=os.environ["HOME"], resume="allow", settings=_settings(wandb, told),
        )  # fmt: skip
    except Exception as error:
        reason = " ".join(str(error).split())[:500]
        _say(**{"refused" if _is_final(wandb, error) else "failed": reason})
        sys.exit(1)
    run.define_metric("eval/*", step_metric="eval/step")
    _say(begun=run.url or "")
    for line in sys.stdin:
        heard = json.loads(line)
        if "step" in heard:
            if heard["step"] >= run.starting_step:
                run.log(heard["metrics"], step=heard["step"], commit=True)
        else:
            run.summary.update(heard["summary"])
            run.finish(exit_code=heard["exit_code"])
            return
    os._exit(1)  # who told it has died: another takes the run up, which is not over


def _settings(wandb: Any, told: dict[str, Any]) -> Any:
    """W&B is told of the run, and nothing of the machine."""
    return wandb.Settings(
        api_key=told["api_key"], base_url=told["base_url"], silent=True, console="off", save_code=False,
        disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True,
        init_timeout=told["within_s"],
    )  # fmt: skip


def _is_final(wandb: Any, error: Exception) -> bool:
    """W&B does not want this, and will not in a minute: the key, or what is told, is not what it takes."""
    unusable = isinstance(error, wandb.errors.AuthenticationError | wandb.errors.UsageError | ValueError)
    return unusable or re.search(r"(error|HTTP) 40[13]\b", str(error)) is not None


def _say(**told: str) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
