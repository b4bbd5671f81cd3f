"""flash/models/catalogue.py and places.py: names, pools and folders."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from flash.contracts.base import Token
from flash.errors import NotFound
from flash.models import card, cards, folder, pool_of, pull


def test_every_model_of_the_catalogue_has_a_card_and_a_pool_of_its_own() -> None:
    assert [card(known.name) for known in cards()] == list(cards())
    assert len({known.pool for known in cards()}) == len(cards())


def test_a_pool_may_stand_in_a_subject() -> None:
    for model in [*(known.name for known in cards()), "someone/Model+v1 (new)", "./my model.v2", "/", "a" * 300]:
        msgspec.convert(pool_of(model), Token)


def test_a_pool_reads_like_its_model() -> None:
    assert pool_of("tiny") == "tiny"
    assert pool_of("Qwen/Qwen3-0.6B") == "Qwen--Qwen3-0_6B"


def test_two_folders_of_one_name_are_two_pools() -> None:
    assert pool_of("/a/model") != pool_of("/b/model")


def test_an_unknown_name_is_not_found_and_the_nearest_is_named() -> None:
    with pytest.raises(NotFound, match=r"called 'smolm2-135m': did you mean 'smollm2-135m'\?"):
        card("smolm2-135m")
    with pytest.raises(NotFound, match="flash models"):
        card("zzz")


def test_an_unknown_name_is_not_found_by_pull_either(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="did you mean 'tiny'"):
        pull("tinny", tmp_path, lambda done, total: None)


def test_the_tiny_model_is_there_without_a_pull(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    place = pull("tiny", tmp_path, lambda done, total: told.append((done, total)))

    assert place == folder("tiny", tmp_path)
    assert (place / "model.safetensors").is_file()
    assert told == []


@pytest.mark.parametrize("model", ["smollm2-135m", "Qwen/Qwen3-0.6B", "someone/else"])
def test_a_model_that_is_not_here_says_how_to_get_it(model: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"`flash models pull {model}`"):
        folder(model, tmp_path)


def test_a_folder_is_a_model_and_its_card_is_read_from_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 99, "dtype": "float32"}))
    (tmp_path / "chat_template.jinja").write_text("{% if enable_thinking %}{% endif %}")
    (tmp_path / "model.safetensors").write_bytes(bytes(4_000))

    found = card(str(tmp_path))

    assert (found.context, found.thinking, found.parameters) == (99, "hybrid", 1_000)
    assert folder(str(tmp_path), Path("unused")) == tmp_path


def test_a_folder_that_holds_no_model_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no config\.json"):
        folder(str(tmp_path), Path("unused"))


@pytest.mark.parametrize("model", ["~nobody-of-that-name/x", "./a\0b", "/" + "a" * 5_000])
def test_a_path_that_is_none_is_not_found(model: str) -> None:
    with pytest.raises(NotFound, match=r"cannot be read|no config\.json"):
        card(model)


@pytest.mark.parametrize("text", ["[]", "{", "\x00"])
def test_a_folder_whose_config_is_no_table_is_not_found(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(NotFound, match=r"is no table|cannot be read"):
        card(str(tmp_path))


def test_a_model_that_also_sees_tells_the_limits_of_its_text(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 99}}))

    assert card(str(tmp_path)).context == 99


def test_the_catalogue_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, flash.models, flash.models.rendering; print({'torch', 'transformers'} & set(sys.modules))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "set()"
