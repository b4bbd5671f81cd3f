"""`flash export`: what lies in the folder, and what never does. That it loads: tests/loop/test_export.py."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main
from flash.contracts.keys import adapter_key
from flash.models import folder
from tests.cli.fake_hub import FakeHub, fake_hub

WEIGHTS = b"weights" * 200_000
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def run(project: Path, fake_stack: Any, scripts: Any, capsys: pytest.CaptureFixture[str]) -> str:
    """The id of a run whose final adapter lies in the store; its weights take more than one part."""

    def script(spec: Any) -> list[tuple[str, dict[str, Any]]]:
        policy = {"version": 2, "key": adapter_key(spec.run_id, DIGEST), "digest": DIGEST}
        facts = [(name, dict(body)) for name, body in scripts["learns"](spec) if name != "step.saved"]
        return [*facts[:-1], ("step.saved", {"step": 2, "policy": policy, "final": True}), facts[-1]]

    fake_stack.script = script
    assert main(["env", "setup", "-y"]) == 0
    assert main(["env", "push", "--name", "sums", "-y"]) == 0
    assert main(["train", "configs/rl.toml", "--set", "model=tiny", "--set", "name=a | b"]) == 0
    fake_stack.adapters[DIGEST] = {
        "adapter_config.json": json.dumps({"peft_type": "LORA", "base_model_name_or_path": "tiny"}).encode(),
        "adapter_model.safetensors": WEIGHTS,
    }
    capsys.readouterr()
    return str(fake_stack.specs[-1].run_id)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub() as found:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # as CI has it; the fake one is here
        monkeypatch.setenv("HF_TOKEN", found.token)
        yield found


def files(place: Path) -> set[str]:
    return {str(file.relative_to(place)) for file in place.rglob("*")}


def test_an_adapter_whose_base_is_nowhere_else_takes_it_along(run: str, project: Path) -> None:
    assert main(["export", run, "out"]) == 0

    out, tiny = project / "out", folder("tiny", project)
    assert files(out) == {file.name for file in tiny.iterdir()} | {
        "adapter_config.json", "adapter_model.safetensors", "README.md",
    }  # fmt: skip
    assert (out / "adapter_model.safetensors").read_bytes() == WEIGHTS
    assert (out / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()


def test_an_adapter_of_a_model_of_the_hub_names_it_and_takes_its_tokenizer_only(
    run: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flash.models.exporting.hub_id", lambda model: "Qwen/Qwen3-0.6B")

    assert main(["export", run, "out"]) == 0

    out = project / "out"
    wanted = {"adapter_config.json", "adapter_model.safetensors", "README.md", "chat_template.jinja"}
    assert files(out) == wanted | {"tokenizer.json", "tokenizer_config.json"}
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "Qwen/Qwen3-0.6B"
    card = (out / "README.md").read_text()
    assert 'base_model: "Qwen/Qwen3-0.6B"' in card
    assert 'AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B")' in card


def test_the_card_says_what_it_was_trained_from(run: str, project: Path) -> None:
    assert main(["export", f"{run}/step-2", "out"]) == 0

    card = (project / "out" / "README.md").read_text()
    for said in (
        'license: "apache-2.0"', f"# {run}/step-2", "| environment | `local/sums@", f"| run | `{run}` (a \\| b) |",
        "| step | 2 of 2 |", "reward=0.75", "| reward, first to last step | 0.250 to 0.750 |",
        "| base model | `tiny` |",
    ):  # fmt: skip
        assert said in card


def test_what_is_there_is_replaced_only_when_asked_and_only_an_export(
    run: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "mine").mkdir()
    (project / "mine" / "thesis.txt").write_text("years of work")

    assert main(["export", run, "out"]) == 0
    (project / "out" / "stale").touch()
    assert main(["export", run, "out"]) == 1
    assert "is there already: name another folder, or -f replaces an export" in capsys.readouterr().err
    assert main(["export", run, "out", "-f"]) == 0
    assert not (project / "out" / "stale").exists()
    assert main(["export", run, "mine", "-f"]) == 1
    assert "holds no export, and is not replaced" in capsys.readouterr().err
    assert files(project / "mine") == {"thesis.txt"}


def test_nothing_half_done_stays_behind(
    run: str, project: Path, fake_stack: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(project)
    left = project / ".out.unfinished"
    left.mkdir()
    (left / "of-one-that-was-killed").touch()
    fake_stack.adapters[DIGEST]["adapter_model.safetensors"] = WEIGHTS[:-1]

    assert main(["export", run, "out"]) == 1

    assert "error: the adapter has digest" in capsys.readouterr().err
    assert files(project) == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["export", "tiny", "out"], "tiny is a base model, with nothing trained: name a RUN or RUN/step-N"),
        (["export", "$RUN/step-7", "out"], "$RUN has no checkpoint step-7; it has step-2"),
        (["export", "$RUN", "out", "--repository", "me"], "--repository is 'me': it reads OWNER/NAME"),
        (["export", "$RUN", "out", "--repository", "me/it"], "HF_TOKEN is not set: a token that may write to me/it"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_sentence(
    run: str,
    project: Path,
    words: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)

    assert main([word.replace("$RUN", run) for word in words]) == 1

    assert f"error: {sentence.replace('$RUN', run)}" in capsys.readouterr().err
    assert not (project / "out").exists()


def test_a_push_makes_a_private_repository_and_commits_what_lies_in_the_folder(
    run: str, project: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", run, "out", "--repository", "me/sums", "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["repository"] == f"{hub.url}/me/sums"
    assert [(made["name"], made["organization"], made["visibility"]) for made in hub.made] == [
        ("sums", "me", "private")
    ]
    out = project / "out"
    assert hub.files == {f"me/sums/{name}": (out / name).read_bytes() for name in files(out)}


def test_a_push_that_fails_leaves_the_export_and_shows_no_token(
    run: str, project: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")

    assert main(["export", run, "out", "--repository", "me/sums", "--public"]) == 1

    said = capsys.readouterr().err
    assert "error: me/sums was not pushed: " in said
    assert f"The export itself is whole, in {project / 'out'}" in said
    assert "hf_wrong" not in said
    assert (project / "out" / "README.md").is_file()
