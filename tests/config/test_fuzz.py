"""Whatever is written into a config or after `--set`: it is taken, or refused in sentences that name what is wrong."""

import math
from collections.abc import Callable
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flash.config.differences import differences
from flash.config.keys import MOST, RunConfig
from flash.config.overlay import Table
from flash.config.resolving import preview
from flash.config.run import checked, load
from flash.errors import ConfigError
from flash.host.sandbox.destinations import parsed
from tests.config.test_keys import KEYS, MODEL, at

NUMBERS = [-1, 0, 1, 2, 2**31, MOST + 1, 2**63, 10**400, -0.0, 0.5, 1e308, math.inf, -math.inf, math.nan]
SCALARS = st.one_of(
    st.text(max_size=20),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(NUMBERS),
    st.sampled_from(
        ["tiny", MODEL, "grpo", "sft", "./nowhere", "~", "a/b", "\0", "\n", "allow", "flash-1-0000abcd/final"]
    ),
    st.text(max_size=8).map("~{}".format),
    st.text(max_size=8).map("./{}".format),
    st.dates(),
    st.times(),
    st.datetimes(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from([*KEYS, "notify", "gpu", "train.kl_penalty_coeff", "environment.params.split", "worker_env.A"])
PATHS = st.one_of(WORDS, WORDS, st.text(max_size=10), st.tuples(WORDS, st.text(max_size=5)).map(".".join))
BASES = st.sampled_from(
    [
        {},
        {"model": MODEL},
        {"model": "tiny", "algorithm": "grpo"},
        {"model": "a/b", "model_policy": "allow", "thinking": True},
    ]
)
OFTEN = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


def refusal(read: Callable[[], RunConfig]) -> list[str]:
    """The sentences that refuse a config; none where it is taken, and then it is whole."""
    try:
        config = read()
    except ConfigError as error:
        return str(error).split("\n")
    assert is_whole(config)
    return []


def are_sentences(lines: list[str]) -> bool:
    """One line each, short, and neither a traceback nor a text of pydantic's."""
    return all(
        line.strip() and len(line) < 700 and "pydantic" not in line and "Traceback" not in line for line in lines
    )


def is_whole(config: RunConfig) -> bool:
    """What is taken can be told, kept and read again."""
    list(differences(config))
    if config.environment.id:
        spec = preview(config, run_id="flash-1-00000000")
        assert msgspec.json.decode(msgspec.json.encode(spec)) == spec
        msgspec.msgpack.encode(spec)
    return True


@OFTEN
@given(BASES, st.lists(st.tuples(PATHS, VALUES), max_size=4), st.booleans())
def test_any_table_is_a_config_or_is_refused_in_sentences(
    base: Table, more: list[tuple[str, Any]], has_id: bool
) -> None:
    table = base | ({"environment": {"id": "local/x"}} if has_id else {})
    for path, value in more:
        table = at(path, value, table)

    assert are_sentences(refusal(lambda: checked(table)))


@OFTEN
@given(key=st.sampled_from([key for key in KEYS if KEYS[key].valid]), value=VALUES)
def test_what_one_key_is_given_is_taken_or_the_sentence_names_that_key(key: str, value: Any) -> None:
    told = refusal(
        lambda: checked(at(key, value, {"model": MODEL, **KEYS[key].beside, "environment": {"id": "local/x"}}))
    )

    assert are_sentences(told)
    assert all(key.rpartition(".")[2] in line or "is a knob of" in line for line in told)


@OFTEN
@given(st.one_of(st.text(max_size=12), st.text("ab1-_.:[]0", max_size=12)))
def test_a_place_that_a_config_may_name_is_one_that_a_host_can_look_for(place: str) -> None:
    if not refusal(lambda: checked({"model": MODEL, "environment": {"network": [place]}})):
        parsed(place)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@OFTEN
@given(
    text=st.one_of(
        st.text(max_size=60),
        st.binary(max_size=60),
        st.lists(st.tuples(PATHS, SCALARS), max_size=4).map(
            lambda pairs: "".join(f"{path} = {_toml(value)}\n" for path, value in pairs)
        ),
        st.sampled_from(
            ["model = " + "[" * 5_000, "seed = " + "9" * 5_000, "model = 'tiny'\n[train]\nsteps = 1e999\n"]
        ),
    )
)
def test_any_file_is_a_config_or_is_refused_in_sentences(folder: Path, text: str | bytes) -> None:
    file = folder / "run.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)

    assert are_sentences(refusal(lambda: load(file)))


@OFTEN
@given(
    sets=st.lists(
        st.one_of(
            st.text(max_size=30),
            st.tuples(PATHS, st.text(max_size=20) | SCALARS.map(str)).map("=".join),
            st.sampled_from(
                ["train.steps=" + "9" * 5_000, "train.stop_sequences=" + "[" * 3_000 + "]" * 3_000, "name=\udc80"]
            ),
        ),
        max_size=4,
    )
)
def test_anything_behind_set_is_taken_or_refused_in_sentences(folder: Path, sets: list[str]) -> None:
    file = folder / "plain.toml"
    file.write_text(f'model = "{MODEL}"\nalgorithm = "grpo"\n[environment]\nid = "local/x"\n')

    assert are_sentences(refusal(lambda: load(file, sets=sets)))


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    return msgspec.json.encode(value).decode() if isinstance(value, str) else str(value)
