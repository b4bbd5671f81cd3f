"""The newcomer again, with the model that the configs name: nothing in them is changed by hand."""

import json

import pytest

from tests.pulled import share_models
from tests.walk.conftest import Terminal

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_the_configs_of_a_project_train_as_they_were_laid_down(terminal: Terminal) -> None:
    terminal.home.mkdir()
    share_models(terminal.home)
    terminal("flash models pull smollm2-135m")
    terminal("flash up -d")
    setup = terminal("flash env setup -y")
    assert "is not here yet" not in setup.err
    terminal("flash env push --name laid-down -y")

    sft = terminal("flash train configs/sft.toml")
    rl = terminal(f"flash train configs/rl.toml --set train.init_from_adapter={sft.run_id}")

    trained, improved = json.loads(sft.out), json.loads(rl.out)
    assert (trained["state"], trained["spec"]["model"]) == ("done", "smollm2-135m")
    assert (improved["state"], improved["step"], improved["faults"]) == ("done", 20, 0)
    assert f"{rl.run_id}/step-20" in terminal(f"flash checkpoints {rl.run_id}").out
    assert terminal(f'flash chat {rl.run_id} -m "What is 2 + 2?" --max-tokens 16').out.strip()
