"""Which requirement strings are taken: flash/config/requirements.py."""

from importlib.metadata import version

import pytest

from flash.config.requirements import normal_form
from flash.config.resolving import resolve
from flash.config.run import checked
from flash.contracts.requests import EnvironmentVersion
from flash.errors import ConfigError

WANTED = 'but wanted is a name, with versions if need be, for example "nltk>=3.9"'
A_PLACE = f"which is a place, {WANTED}: publish it to a package index, or put its files into the environment's folder"


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("nltk", "nltk"),
        ("  Reasoning_Gym == 0.1.25 ", "reasoning-gym==0.1.25"),
        ("zope.interface>=5,<6", "zope-interface<6,>=5"),
        ("httpx [http2, brotli]", "httpx[brotli,http2]"),
        ("tomli>=2; python_version < '3.11'", 'tomli>=2; python_version < "3.11"'),
        ("torch>=2.0.0rc1", "torch>=2.0.0rc1"),
        ("msgspec", "msgspec"),
    ],
)
def test_names_versions_extras_and_markers_are_taken_in_one_form(text: str, normal: str) -> None:
    assert normal_form([text]) == [normal]


def test_order_and_repetition_make_no_difference() -> None:
    assert normal_form(["b", "A", "a"]) == normal_form(["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("-r requirements.txt", f"names '-r requirements.txt', which is an option of the installer, {WANTED}"),
        ("--index-url=https://evil.example", "which is an option of the installer"),
        ("nltk --hash=sha256:00", WANTED),
        ("nltk\n--index-url x", WANTED),
        ("git+https://host.example/package", f"names 'git+https://host.example/package', {A_PLACE}"),
        ("nltk @ https://host.example/nltk.whl", A_PLACE),
        ("nltk@file:///etc", A_PLACE),
        ("./package", A_PLACE),
        ("..\\package", A_PLACE),
        ("package-1.0-py3-none-any.whl", A_PLACE),
        ("requirements.txt", A_PLACE),
        ("", WANTED),
        ("two words", WANTED),
        ("nltk==", WANTED),
        ("nltk; os == 'x'", WANTED),
        ("msgspec<0.1", f"but the platform's own msgspec is {version('msgspec')} and stays: leave it out"),
    ],
)
def test_anything_else_is_refused_with_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        normal_form([text])

    assert str(raised.value).startswith("environment.pip names ")
    assert sentence in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_credential_in_a_url_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as raised:
        normal_form(["nltk @ https://me:secret@host.example/nltk.whl"])

    assert "secret" not in str(raised.value)
    assert "https://host.example/nltk.whl" in str(raised.value)


def test_every_bad_one_has_its_sentence_in_the_config_too() -> None:
    with pytest.raises(ConfigError) as raised:
        checked({"model": "tiny", "environment": {"pip": ["two words", "nltk", "./here"]}})

    assert [line[:37] for line in str(raised.value).splitlines()] == [
        "environment.pip names 'two words', bu",
        "environment.pip names './here', which",
    ]


def test_the_spec_has_them_in_their_one_form() -> None:
    environment = EnvironmentVersion(
        id="local/sums", version="abcdef123456", digest="d", key="k", packed_bytes=1, published_at=1.0
    )
    config = checked({"model": "tiny", "environment": {"pip": ["NLTK >=3.9", "absl_py"]}})

    assert resolve(config, environment, run_id="r1").environment.pip == ["absl-py", "nltk>=3.9"]
