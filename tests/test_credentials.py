"""What is taken for a credential, and what is not: flash/credentials.py."""

import pytest

from flash import credentials

SECRETS = (
    "sk-" + "a1" * 20,
    "ghp_" + "A" * 36,
    "hf_" + "a" * 34,
    "AKIA" + "A1" * 8,
    "glpat-" + "a" * 20,
    "eyJhbGciOiJI.eyJzdWIiOiIx.c2ln",
    "-----BEGIN OPENSSH PRIVATE KEY-----",
    "https://me:hunter2@example.org/x",
    "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY01",
)


@pytest.mark.parametrize("value", SECRETS)
def test_a_value_that_is_a_credential_is_known(value: str) -> None:
    assert credentials.in_value(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "enabled",
        "https://example.org:80/a",
        "a" * 64,
        "0123456789abcdef" * 4,
        "7f1c2d9e-AAAA-4bbb-8ccc-0123456789ab",
        "1b4e28ba-2fa1",
        "sk-short",
        "ü",
        "/data/Models/Qwen3-0.6B-Instruct-2507",
    ],
)
def test_a_harmless_value_is_none(value: str) -> None:
    assert credentials.in_value(value) is None


@pytest.mark.parametrize(
    "name",
    ["TOKEN", "HF_TOKEN", "GithubToken", "db-password", "CLIENT_SECRET", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY",
     "apikey", "MY_CREDENTIALS", "GIT_PAT", "PRIVATEKEY", "KEY_PRIVATE"],
)  # fmt: skip
def test_a_name_says_that_its_value_is_a_credential(name: str) -> None:
    assert credentials.is_name(name)


@pytest.mark.parametrize(
    "name", ["FEATURE_FLAG", "MAX_TOKENS", "KEYBOARD", "SORT_KEY", "PATH_TO_DATA", "SECRETARY", ""]
)
def test_a_name_of_something_else_does_not(name: str) -> None:
    assert not credentials.is_name(name)


def found_in(data: bytes, piece_bytes: int = 1 << 20) -> tuple[str, int] | None:
    scan = credentials.Scan()
    pieces = [data[start : start + piece_bytes] for start in range(0, len(data), piece_bytes)]
    return next((found for p in pieces if (found := scan.feed(p))), None) or scan.feed(b"", is_last=True)


def test_a_file_is_told_with_the_kind_and_the_line() -> None:
    assert found_in(b"a\n\n" + b"hf_" + b"a" * 34) == ("a Hugging Face token", 3)
    assert found_in(b"https://me:hunter2@example.org") is None


@pytest.mark.parametrize("before", [0, 1, 4_000, 4_090, 4_096, 4_100, 9_000])
def test_a_credential_is_found_wherever_the_pieces_of_its_file_end(before: int) -> None:
    data = b"\n" * before + b" AKIA" + b"B" * 16 + b" and more" * 1_000

    assert found_in(data, 4_099) == found_in(data, 7) == found_in(data) == ("an AWS access key", before + 1)


def test_a_longer_word_that_is_cut_by_the_end_of_a_piece_is_none() -> None:
    data = b"x" * 5_000 + b"AKIA" + b"B" * 5_000

    assert all(found_in(data, 5_000 + number) is None for number in range(-3, 30))
