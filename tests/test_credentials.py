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
)


@pytest.mark.parametrize("value", SECRETS)
def test_a_value_that_is_a_credential_is_known(value: str) -> None:
    assert credentials.in_value(value)


@pytest.mark.parametrize(
    "value", ["", "enabled", "https://example.org:80/a", "a" * 64, "1b4e28ba-2fa1", "sk-short", "ü"]
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


def test_a_file_is_told_with_the_kind_and_the_line() -> None:
    assert credentials.in_file(b"a\n\n" + b"hf_" + b"a" * 34) == ("a Hugging Face token", 3)
    assert credentials.in_file(b"https://me:hunter2@example.org") is None
