"""`environment.secrets`: the names it may have, and where the values come from."""

from pathlib import Path

import pytest

from flash.config.run import checked
from flash.config.secrets import find
from flash.errors import ConfigError


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """The current folder, and a config in another."""
    here, config = tmp_path / "here", tmp_path / "project" / "rl.toml"
    here.mkdir()
    config.parent.mkdir()
    return here, config


@pytest.mark.parametrize(
    ("set_in", "found"),
    [
        (("shell", "here/.env", "here/.env.local", "project/.env", "project/.env.local"), "shell"),
        (("here/.env", "here/.env.local", "project/.env", "project/.env.local"), "here/.env"),
        (("here/.env.local", "project/.env", "project/.env.local"), "here/.env.local"),
        (("project/.env", "project/.env.local"), "project/.env"),
        (("project/.env.local",), "project/.env.local"),
    ],
)
def test_the_shell_goes_before_the_current_folder_and_that_before_the_configs(
    places: tuple[Path, Path], set_in: tuple[str, ...], found: str
) -> None:
    here, config = places
    shell = {}
    for place in set_in:
        if place == "shell":
            shell["JUDGE_KEY"] = place
        else:
            (here.parent / place).write_text(f"OTHER=x\nJUDGE_KEY={place}\n")

    secrets = find(["JUDGE_KEY"], config, environment=shell, here=here)

    assert secrets.required() == {"JUDGE_KEY": found}
    assert secrets.places["JUDGE_KEY"] == ("the shell" if found == "shell" else str(here.parent / found))


def test_what_is_not_declared_is_not_read(places: tuple[Path, Path]) -> None:
    here, config = places
    (here / ".env").write_text("A=aaaaaaaa\nB=bbbbbbbb\n")

    assert find(["A"], config, environment={"C": "c"}, here=here).required() == {"A": "aaaaaaaa"}
    assert find([], config, environment={"C": "c"}, here=here).required() == {}


def test_a_file_is_read_as_people_write_it(places: tuple[Path, Path]) -> None:
    here, config = places
    text = "\ufeff# judges\nexport A='single $HOME'\nB=\"two\\nlines\"  # why\nC=${A}-literal\nD = spaced \n"
    (here / ".env").write_text(text, encoding="utf-8")

    secrets = find(["A", "B", "C", "D"], config, environment={}, here=here)

    assert secrets.required() == {"A": "single $HOME", "B": "two\nlines", "C": "${A}-literal", "D": "spaced"}


def test_all_that_are_set_nowhere_are_named_and_an_empty_one_is_not_set(places: tuple[Path, Path]) -> None:
    here, config = places
    (here / ".env").write_text("EMPTY=\nthis is no line\n")

    with pytest.raises(ConfigError) as raised:
        find(["GONE", "EMPTY", "HERE"], config, environment={"HERE": "is here", "EMPTY": ""}, here=here).required()

    assert str(raised.value) == (
        "missing declared environment secret(s): GONE, EMPTY: set them in your shell, or in .env or .env.local in this "
        f"folder or beside the config ({here / '.env'}, line 2 cannot be read as NAME=value)"
    )


def test_a_file_that_cannot_be_read_is_named(places: tuple[Path, Path]) -> None:
    here, config = places
    (here / ".env").write_bytes(b"A=\xff\xfe")

    with pytest.raises(ConfigError, match=r"\.env cannot be read: it is no UTF-8 text"):
        find(["A"], config, environment={}, here=here)


@pytest.mark.parametrize(("value", "said"), [("a\0b", "holds a NUL"), ("x" * 70_000, "has 70,000 bytes")])
def test_a_value_that_cannot_be_a_variable_is_refused_and_not_shown(value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        find(["A"], environment={"A": value})

    assert value not in str(raised.value)


def config_with(*names: str) -> dict[str, object]:
    return {"model": "tiny", "environment": {"id": "local/x", "secrets": list(names)}}


def test_a_config_declares_names() -> None:
    assert checked({"model": "tiny"}).environment.secrets == []
    assert checked(config_with("JUDGE_KEY", "_x1")).environment.secrets == ["JUDGE_KEY", "_x1"]


@pytest.mark.parametrize(
    "name",
    [
        "FREESOLO_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN", "RUN_ID", "HF_REPO", "FLASH_TOKEN",
        "FLASH_NATS_URL", "WANDB_API_KEY", "LD_PRELOAD", "PYTHONPATH", "PATH", "https_proxy",
    ],
)  # fmt: skip
def test_names_of_the_platform_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"must not include platform-managed key\(s\): {name}: "):
        checked(config_with("JUDGE_KEY", name))


@pytest.mark.parametrize("name", ["", "JUDGE KEY", "1KEY", "A=b", "KEY-2", "sk-proj-4711"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="but the name of an environment variable is wanted"):
        checked(config_with(name))


@pytest.mark.parametrize("value", ["JUDGE_KEY", {"JUDGE_KEY": "x"}, [1], True])
def test_secrets_are_a_list_of_names(value: object) -> None:
    with pytest.raises(ConfigError, match=r"environment\.secrets"):
        checked({"model": "tiny", "environment": {"secrets": value}})
