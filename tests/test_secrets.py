"""What is sealed opens for whom it was sealed, and for what it was sealed for."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flash.errors import CannotOpen, ConfigError
from flash.secrets import KeyPair, of_archive, of_run, seal

VALUES = {"JUDGE_KEY": "sk-4711-canary", "EMPTY": "", "WIDE": "grün — ✓\n2nd line"}


def test_what_is_sealed_to_a_pool_opens_there_and_cannot_be_read_on_the_way(tmp_path: Path) -> None:
    pool = KeyPair.kept(tmp_path / "keys" / "scorer")

    sealed = seal(VALUES, pool.public, of_run("local", "r1"))

    assert pool.open(sealed, of_run("local", "r1")) == VALUES
    assert b"canary" not in sealed
    assert b"JUDGE_KEY" not in sealed


def test_it_opens_for_no_other_run_no_other_archive_and_no_other_pool(tmp_path: Path) -> None:
    pool, another = KeyPair.kept(tmp_path / "a"), KeyPair.kept(tmp_path / "b")
    sealed = seal(VALUES, pool.public, of_run("local", "r1"))

    for purpose in (of_run("local", "r2"), of_run("others", "r1"), of_archive("r1")):
        with pytest.raises(CannotOpen, match="sealed for something else"):
            pool.open(sealed, purpose)
    with pytest.raises(CannotOpen, match=r"run local/r1 are sealed to another key .* submitted again"):
        another.open(sealed, of_run("local", "r1"))


@pytest.mark.parametrize("sealed", [b"", b"x", b"x" * 200])
def test_what_was_never_sealed_cannot_be_opened(tmp_path: Path, sealed: bytes) -> None:
    with pytest.raises(CannotOpen):
        KeyPair.kept(tmp_path / "key").open(sealed, of_run("local", "r1"))


def test_replicas_that_start_at_once_share_one_key_that_only_their_owner_reads(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "scorer"

    with ThreadPoolExecutor(8) as replicas:
        publics = {pair.public for pair in replicas.map(lambda _: KeyPair.kept(file), range(16))}

    assert len(publics) == 1
    assert [path.name for path in file.parent.iterdir()] == ["scorer"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("content", [b"", b"not base64 at all!", b"c2hvcnQ="])
def test_a_file_that_is_no_key_is_named_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)

    with pytest.raises(ConfigError, match=r"key is no private key, 32 bytes in base64: bring back"):
        KeyPair.kept(file)
    assert file.read_bytes() == content


def test_a_key_that_cannot_be_made_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match=r"the private key .*file/key cannot be used: "):
        KeyPair.kept(tmp_path / "file" / "key")
