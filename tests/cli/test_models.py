"""`flash models`, `flash gpus`, and a run on what nothing serves."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli.__main__ import main
from cli.stack.home import Home, PartState, Stack, started_at
from flash.models import Serving, cards, folder, serving

Capture = pytest.CaptureFixture[str]


def test_models_are_one_a_line_on_a_pipe(project: Path, capsys: Capture) -> None:
    assert main(["models"]) == 0

    assert capsys.readouterr().out.splitlines()[:2] == ["tiny", "smollm2-135m"]


def test_pulling_what_is_shipped_says_where_it_is(project: Path, capsys: Capture) -> None:
    assert main(["models", "pull", "tiny"]) == 0

    assert capsys.readouterr().out.startswith("tiny is in ")


def test_models_tell_their_limits_and_defaults(project: Path, capsys: Capture) -> None:
    assert main(["models", "--json"]) == 0

    found = {model["model"]: model for model in json.loads(capsys.readouterr().out)}
    assert list(found) == [card.name for card in cards()]
    tiny = found["tiny"]
    assert tiny.pop("grpo")["steps"] == 40
    assert tiny.pop("sft")["batch_size"] == 8
    assert tiny == {
        "model": "tiny", "parameters": 1_018_624, "context": 512, "thinking": "hybrid", "max_lora_rank": 128,
        "lora_targets": "all-linear", "memory_bytes": 2_037_248, "here": True,
    }  # fmt: skip


def test_gpus_tell_what_each_replica_of_a_pool_computes_on(project: Path, fake_stack: Any, capsys: Capture) -> None:
    fake_stack.computes = {"device": "cuda:1", "accelerator": "NVIDIA H200", "accelerator_bytes": "150000000000"}

    assert main(["gpus"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert [(one["model"], one["service"]) for one in found] == [
        ("smollm2-135m", "learner"), ("smollm2-135m", "rollout"), ("tiny", "learner"), ("tiny", "rollout"),
    ]  # fmt: skip
    assert found[2].keys() == {"accelerator", "memory_bytes", "device", "model", "pool", "service", "replica"}
    assert (found[2]["accelerator"], found[2]["memory_bytes"], found[2]["device"]) == (
        "NVIDIA H200", 150_000_000_000, "cuda:1",
    )  # fmt: skip


def test_a_replica_on_a_cpu_has_no_accelerator(tmp_path: Path) -> None:
    about = serving("tiny", folder("tiny", tmp_path), "cpu")

    assert about == Serving(
        model="tiny", pool="tiny", context=512, thinking="hybrid", device="cpu", accelerator="", accelerator_bytes=0
    )


def test_a_replica_on_a_gpu_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="NVIDIA H200", total_memory=150_000_000_000)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: card)

    about = serving("tiny", folder("tiny", tmp_path), "auto")

    assert (about.device, about.accelerator, about.accelerator_bytes) == ("cuda", "NVIDIA H200", 150_000_000_000)
    assert Serving.of(about.metadata()) == about


def test_a_folder_that_is_served_tells_what_its_files_say(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 99}')

    for model in (str(tmp_path), "someone/else"):
        about = serving(model, tmp_path, "cpu")
        assert (about.model, about.context, about.thinking) == (model, 99, "none")


def test_a_run_on_a_model_that_nothing_serves_is_refused_before_it_is_submitted(
    project: Path, fake_stack: Any, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flash.client.serving.PATIENCE_S", 0.0)
    main(["env", "setup", "--template", "sort", "-y"])
    main(["env", "push", "--name", "sort", "-y"])
    capsys.readouterr()

    assert main(["train", "configs/rl.toml", "--set", "model=Qwen/Qwen3-0.6B"]) == 1

    assert "error: no pool serves Qwen/Qwen3-0.6B; start one with `flash up --model Qwen/Qwen3-0.6B`" in (
        capsys.readouterr().err
    )
    assert fake_stack.specs == []


def test_a_dry_run_needs_no_stack_and_reads_no_rows(project: Path, capsys: Capture) -> None:
    Path("run.toml").write_text('model = "someone/else"\nmodel_policy = "allow"\n[environment]\nid = "my-org/sums"\n')

    assert main(["train", "run.toml", "--dry-run", "--set", "worker_env.A=1"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["run_id", "state", "spec"]
    assert (found["state"], found["spec"]["run_id"]) == ("dry_run", found["run_id"])
    assert found["spec"]["model"] == "someone/else"
    assert found["spec"]["environment"]["worker_env"] == {"A": "1"}


@pytest.fixture
def pulled(project: Path) -> Path:
    """A model that was pulled into the home."""
    place = Path(os.environ["FLASH_HOME"]) / "models" / "smollm2-135m"
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    return place


def test_a_model_that_was_pulled_can_be_removed(pulled: Path, capsys: Capture) -> None:
    assert main(["models", "rm", "smollm2-135m"]) == 0

    assert "`flash models pull smollm2-135m` fetches it again" in capsys.readouterr().out
    assert not pulled.exists()
    assert main(["models", "rm", "smollm2-135m"]) == 1
    assert "is not on this machine" in capsys.readouterr().err


def stack_here(home: Path, *parts: str) -> None:
    """As if a stack of these parts ran in this home: this process is its supervisor."""
    Home(home).write(
        Stack(
            pid=os.getpid(), started_at=started_at(os.getpid()) or 0.0, nats_url="nats://127.0.0.1:1",
            store_url="", parts=tuple(PartState(name=name) for name in parts),
        )
    )  # fmt: skip


def test_what_was_not_pulled_is_not_removed_whoever_serves_it(project: Path, pulled: Path, capsys: Capture) -> None:
    stack_here(pulled.parents[1], "rollout-tiny-1")

    assert main(["models", "rm", "tiny"]) == 1

    assert "tiny comes with Flash, and stays" in capsys.readouterr().err


def test_a_model_that_the_stack_of_this_machine_serves_stays(pulled: Path, capsys: Capture) -> None:
    stack_here(pulled.parents[1], "rollout-smollm2-135m-1")

    assert main(["models", "rm", "smollm2-135m"]) == 1

    assert "the stack of this machine serves smollm2-135m: `flash down` first" in capsys.readouterr().err
    assert pulled.exists()


def test_a_model_that_a_live_run_needs_stays(
    pulled: Path, fake_stack: Any, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert main(["env", "setup", "-y"]) == 0
    assert main(["env", "push", "--name", "sums", "-y"]) == 0
    assert main(["train", "configs/rl.toml", "--background"]) == 0
    stack_here(pulled.parents[1], "rollout-tiny-1")
    monkeypatch.setattr("flash.client.connect", fake_stack.connect)

    assert main(["models", "rm", "smollm2-135m"]) == 1

    run_id = fake_stack.specs[-1].run_id
    assert f"{run_id} is queued and needs smollm2-135m: `flash cancel {run_id}` first" in capsys.readouterr().err
    assert pulled.exists()
