"""Somebody who has read the README and nothing else: every step works as printed, and each tells the next."""

import json
from pathlib import Path

import pytest

from tests.walk.conftest import Terminal

pytestmark = pytest.mark.slow


def paste(folder: Path, id: str) -> None:
    """What a person does in an editor: the id that push printed, and the model that comes with Flash."""
    for config in (folder / "configs").glob("*.toml"):
        text = config.read_text()
        assert 'id = ""' in text
        config.write_text(text.replace('id = ""', f'id = "{id}"').replace('"smollm2-135m"', '"tiny"'))


def test_a_newcomer_walks_from_an_empty_folder_to_a_model_that_answers(terminal: Terminal) -> None:
    up = terminal("flash up -d")
    assert "flash env setup" in up.err

    setup = terminal("flash env setup")
    assert [line for line in setup.out.splitlines() if line.startswith("ensured ")] == setup.out.splitlines()
    for following in ("flash env test", "flash env push --name", "flash train configs/sft.toml"):
        assert following in setup.err
    assert "smollm2-135m, which is not here yet:\n  flash models pull smollm2-135m\n" in setup.err

    test = terminal("flash env test")
    assert json.loads(test.out)["passed"]
    assert "flash env push --name NAME" in test.err

    push = terminal("flash env push --name my-env .")
    published, table, id = push.out.splitlines()
    assert published.startswith("published local/my-env@")
    assert (table, id) == ("[environment]", 'id = "local/my-env"')
    assert "flash train configs/sft.toml" in push.err
    paste(terminal.folder, "local/my-env")

    sft = terminal("flash train configs/sft.toml")
    first = json.loads(sft.out)
    assert (first["state"], first["run_id"]) == ("done", sft.run_id)
    assert f"flash train configs/rl.toml --set train.init_from_adapter={sft.run_id}" in sft.err
    assert "rows        train, 2, hash " in sft.err

    rl = terminal("flash train configs/rl.toml --set train.steps=2")
    assert json.loads(rl.out)["state"] == "done"
    for following in ("flash chat", "flash rollouts", "flash checkpoints"):
        assert f"{following} {rl.run_id}" in rl.err

    checkpoints = terminal(f"flash checkpoints {rl.run_id}")
    assert checkpoints.out == f"step 2  {rl.run_id}/step-2\n"
    assert f"flash chat {rl.run_id}/step-2" in checkpoints.err

    rollouts = terminal(f"flash rollouts {rl.run_id}")
    assert len(json.loads(rollouts.out)["rollouts"]) == 20

    chat = terminal(f'flash chat {rl.run_id}/step-2 -m "What is 2 + 2?" --max-tokens 8')
    assert chat.out.endswith("\n")


@pytest.mark.parametrize("shape", [["--multi-turn"], ["--reasoning"], ["--multi-turn", "--reasoning"]])
def test_every_shape_of_the_starter_is_tested_published_and_trained_as_it_is_laid_down(
    shape: list[str], terminal: Terminal
) -> None:
    name = "-".join(word.strip("-") for word in shape)
    there = Terminal(terminal.home, terminal.folder / name)
    there.folder.mkdir()
    there(f"flash env setup {' '.join(shape)}")

    assert json.loads(there("flash env test").out)["passed"]
    there(f"flash env push --name {name}")
    paste(there.folder, f"local/{name}")
    sft = there("flash train configs/sft.toml --set train.epochs=1")
    rl = there(f"flash train configs/rl.toml --set train.steps=1 --set train.init_from_adapter={sft.run_id}")

    found = json.loads(rl.out)
    assert (found["state"], found["faults"]) == ("done", 0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--set", "environment.params.split=nowhere"], "nowhere"),
        (["--set", "environment.id=local/nobody"], "local/nobody"),
        (["--set", "environment.id=local/my-env@000000000000"], "000000000000"),
        (["--set", '"environment.secrets=[NOT_SET]"'], "missing declared environment secret(s): NOT_SET"),
        (["--set", "train.lora_rank=4096"], "exceeds tiny's serving max_lora_rank=128"),
        (["--set", "model=smollm2-135m", "--set", "thinking=true"], "smollm2-135m does not reason"),
        (["--set", "train.max_length=8", "--set", "train.max_tokens=4"], "short enough to learn from"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence_before_anything_is_queued(
    words: list[str], sentence: str, terminal: Terminal
) -> None:
    before = terminal("flash runs").out

    with pytest.raises(AssertionError, match="ended with 1"):
        terminal(f"flash train configs/rl.toml {' '.join(words)}")

    refused = terminal.typed[-1].err
    assert sentence in refused
    assert "Traceback" not in refused
    assert len([line for line in refused.splitlines() if line.startswith("error: ")]) == 1
    assert terminal("flash runs").out == before


def test_a_malformed_row_is_named_by_its_line(terminal: Terminal) -> None:
    there = Terminal(terminal.home, terminal.folder / "malformed")
    there.folder.mkdir()
    there("flash env setup -y")
    rows = ['{"input": "2 + 2?", "output": "4"}'] * 16 + ['{"input": '] + ['{"input": "?", "output": "5"}']
    (there.folder / "dataset/train.jsonl").write_text("\n".join(rows) + "\n")

    with pytest.raises(AssertionError, match="ended with 1"):
        there("flash env push --name malformed")

    assert "train.jsonl line 17 is not JSON" in there.typed[-1].err


def test_a_version_that_was_withdrawn_is_refused(terminal: Terminal) -> None:
    there = Terminal(terminal.home, terminal.folder / "withdrawn")
    there.folder.mkdir()
    there("flash env setup -y")
    version = there("flash env push --name withdrawn").out.split()[1]
    paste(there.folder, version)
    there(f"flash env delete {version} -y")

    with pytest.raises(AssertionError, match="ended with 1"):
        there("flash train configs/sft.toml")

    refused = there.typed[-1].err
    assert version in refused
    assert len([line for line in refused.splitlines() if line.startswith("error: ")]) == 1
