"""Every key of a run config: its default, values that are taken, and each error. flash/config/keys.py, checking.py."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest

from flash.config.keys import ALGORITHMS, MOST, Environment, RunConfig, Section, is_text
from flash.config.overlay import Table, merged, settings
from flash.config.run import checked
from flash.config.sentences import shown
from flash.errors import ConfigError

MODEL = "Qwen/Qwen3-0.6B"
"""A model of the catalogue whose card has no recipe of its own."""
GRPO: Table = {"algorithm": "grpo"}
REQUIRED = object()

Errors = list[tuple[Any, str]]
"""A value, and what its sentence says behind "KEY is VALUE, but "; a whole sentence where it says no such thing."""


@dataclass(frozen=True)
class Key:
    """One key, as PRODUCT tells it."""

    default: Any
    valid: list[Any]
    errors: Errors
    grpo: Any = None
    """The default for GRPO, where it is another."""
    beside: Table = field(default_factory=dict)
    """What must stand in the config for the key to be looked at."""


def whole(least: int, most: int = MOST, below: str = "") -> Errors:
    return [
        (True, "a whole number is wanted"),
        (2.0, "a whole number is wanted: write 2"),
        (2.5, "a whole number is wanted"),
        ("2", "a whole number is wanted"),
        (float("nan"), "a whole number is wanted"),
        (least - 1, below or f"{least} or more is wanted"),
        (most + 1, f"{most} or less is wanted"),
    ]


def number(*more: tuple[Any, str]) -> Errors:
    finite = "a finite number is wanted"
    return [(True, finite), ("1", finite), (float("inf"), finite), (float("nan"), finite), *more]


def text(*more: tuple[Any, str]) -> Errors:
    return [
        (3, 'a text is wanted: write "3"'),
        (True, 'a text is wanted: write "true"'),
        ([], "a text is wanted"),
        *more,
    ]


def texts(key: str) -> Errors:
    return [("nltk", "a list is wanted"), ([3], f'{key}.0 is 3, but a text is wanted: write "3"')]


OR_MORE_0 = (-0.1, "0 or more is wanted")
TRUTH: Errors = [("yes", "true or false is wanted"), (1, "true or false is wanted")]
TABLE = "it is a table: [{}]"
LONG = "a" * 40
SPLIT = 'the name of a split is wanted, for example "eval"'

KEYS: dict[str, Key] = {
    "model": Key(
        default=REQUIRED,
        valid=["tiny", "smollm2-135m", MODEL],
        errors=[
            (3, "the name of a base model is wanted"),
            ("smollm2-135", "no model of the catalogue is called 'smollm2-135': did you mean 'smollm2-135m'?"),
            ("zzz", "no model of the catalogue is called 'zzz': `flash models` lists them, and a path names a folder"),
            (
                "Qwen/Qwen3-0.7B",
                'model is "Qwen/Qwen3-0.7B", which the catalogue does not have: did you mean "Qwen/Qwen3-0.6B"? '
                'model_policy = "allow" takes any causal model',
            ),
            (
                "somebody/else",
                'model is "somebody/else", which the catalogue does not have: `flash models` lists them; '
                'model_policy = "allow" takes any causal model',
            ),
            ("/", "/ has no config.json: a model's folder is what transformers' save_pretrained writes"),
        ],
    ),
    "algorithm": Key(
        default="sft",
        valid=["sft", "grpo"],
        errors=[("ppo", "it is one of sft, grpo"), (True, "it is one of sft, grpo")],
    ),
    "thinking": Key(default=False, valid=[True], errors=TRUTH),
    "seed": Key(
        default=42,
        valid=[0, 2**63 - 1],
        errors=[*whole(0)[:-1], (2**63, "a number below 9223372036854775808 is wanted")],
    ),
    "model_policy": Key(
        default="catalogue",
        valid=["allow"],
        errors=[("all", "it is one of 'catalogue' or 'allow'"), (True, "it is one of 'catalogue' or 'allow'")],
    ),
    "name": Key(default="", valid=["first"], errors=text()),
    "tags": Key(default=[], valid=[["a", "b"]], errors=texts("tags")),
    "note": Key(default="", valid=["why"], errors=text()),
    "environment": Key(default=Environment(), valid=[], errors=[("local/x", TABLE.format("environment"))]),
    "environment.id": Key(
        default="",
        valid=["local/sums", "my-org/sums.v2@0123456789ab"],
        errors=text(
            (
                "sums",
                "an id is org/name or org/name@version: `flash env push --name NAME .` publishes the folder and "
                "prints it",
            )
        ),
    ),
    "environment.params": Key(
        default={},
        valid=[{"split": "easy", "n": 3, "deep": {"list": [1, 0.5, "x", True]}}],
        errors=[
            (3, TABLE.format("params")),
            ({"split": "../x"},
             'environment.params.split is "../x", but the name of a split is wanted, for example "train"'),
            ({"contract_text": 3}, "environment.params.contract_text is 3, but a text is wanted"),
            ({"contract_path": []}, "environment.params.contract_path is [], but a text is wanted"),
            ({"a": [float("nan")]}, "environment.params.a.0 is nan, but a finite number is wanted"),
            (
                {"a": 2**63},
                "environment.params.a is 9223372036854775808, but a number of at most 64 bits is wanted: write it as "
                "a text",
            ),
            (
                {"day": datetime.date(2026, 1, 2)},
                "environment.params.day is 2026-01-02, but a param is a text, a number, true, false, a list or a table",
            ),
            ({"a b": "\udc80"}, 'environment.params."a b" is "\\udc80", but a text of whole characters is wanted'),
        ],
    ),
    "environment.pip": Key(
        default=[],
        valid=[["nltk", "openai>=1.0.0"]],
        errors=[
            *texts("environment.pip"),
            (
                ["https://me:hunter2@example.org/x.whl"],
                "environment.pip names 'https://example.org/x.whl', which is a place, but wanted is a name, with "
                'versions if need be, for example "nltk>=3.9": publish it to a package index, or put its files into '
                "the environment's folder",
            ),
            (
                ["msgspec<0.1"],
                "environment.pip names 'msgspec<0.1', but the platform's own msgspec is ",
            ),
        ],
    ),
    "environment.network": Key(
        default=[],
        valid=[["api.openai.com", "127.0.0.1:8000", "[::1]:80"]],
        errors=[
            *texts("environment.network"),
            *(
                (
                    [place],
                    f'environment.network has "{place}", but host or host:port is wanted, for example '
                    '"api.openai.com" or "127.0.0.1:8000"',
                )
                for place in ("https://judge.example/v1", "judge.example:99999", "a..b", "-a", "[::1]x", "[1:2]:80", "")
            ),
        ],
    ),
    "environment.secrets": Key(
        default=[],
        valid=[["JUDGE_API_KEY", "b2"]],
        errors=[
            *texts("environment.secrets"),
            (
                ["a-b"],
                'environment.secrets has "a-b", but the name of an environment variable is wanted, for example '
                '"JUDGE_KEY"; its value is read from your shell or .env',
            ),
            *(
                (
                    [name],
                    f"environment.secrets must not include platform-managed key(s): {name}: give the environment a "
                    "variable of another name",
                )
                for name in (
                    "FREESOLO_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN", "RUN_ID", "HF_REPO",
                    "FLASH_TOKEN",
                )
            ),
        ],
    ),
    "train": Key(default=None, valid=[], errors=[(3, TABLE.format("train"))]),
    "train.lora_rank": Key(
        default=32,
        valid=[1, 128],
        errors=[*whole(1), (129, f"train.lora_rank is 129, which exceeds {MODEL}'s serving max_lora_rank=128")],
    ),
    "train.lora_alpha": Key(default=64, valid=[1], errors=whole(1)),
    "train.learning_rate": Key(
        default=1e-4, grpo=1e-5, valid=[1, 0.5], errors=number((0, "a number above 0 is wanted"))
    ),
    "train.batch_size": Key(default=32, grpo=64, valid=[1], errors=whole(1)),
    "train.max_length": Key(
        default=1_024,
        grpo=2_368,
        valid=[40_960],
        errors=[*whole(2), (40_961, f"train.max_length is 40961, but {MODEL} reads at most 40960 tokens")],
    ),
    "train.save_every": Key(default=50, grpo=20, valid=[1], errors=whole(1)),
    "train.init_from_adapter": Key(
        default=None,
        valid=["flash-1-0000abcd", "flash-1-0000abcd/final", "flash-1-0000abcd/step-4"],
        errors=text(
            (
                "runs/flash-1-0000abcd/checkpoints/step-4",
                "the checkpoint of a run is wanted: write flash-1-0000abcd/step-4, as `flash checkpoints` prints it",
            ),
            (
                "latest",
                "the checkpoint of a run is wanted: write RUN, RUN/final or RUN/step-N, as `flash checkpoints` prints "
                "it",
            ),
        ),
    ),
    "train.max_faults": Key(default=0.2, valid=[0, 1], errors=number(OR_MORE_0, (1.5, "1 or less is wanted"))),
    "train.eval_every": Key(default=0, valid=[10], errors=whole(0)),
    "train.eval_split": Key(default="eval", valid=["held-out_2.b"], errors=text(("", SPLIT), ("../x", SPLIT))),
    "train.epochs": Key(default=2, valid=[1], errors=whole(1)),
    "train.max_steps": Key(default=0, valid=[7], errors=whole(0)),
    "train.max_examples": Key(default=0, valid=[7], errors=whole(0)),
    "train.steps": Key(default=150, valid=[1], errors=whole(1), beside=GRPO),
    "train.group_size": Key(
        default=8,
        valid=[2],
        errors=whole(2, 1_024, "GRPO compares the rollouts of a group: set it to 2 or more"),
        beside=GRPO,
    ),
    "train.temperature": Key(default=1.0, valid=[0, 0.7], errors=number(OR_MORE_0), beside=GRPO),
    "train.max_tokens": Key(
        default=320,
        valid=[1, 2_000],
        errors=[
            *whole(1),
            (
                40_960,
                "a sequence has at most train.max_length = 40960 tokens, the prompt included: leave room for it",
            ),
        ],
        beside=GRPO,
    ),
    "train.kl_penalty_coef": Key(default=0.0, valid=[0.1], errors=number(OR_MORE_0), beside=GRPO),
    "train.advantage_clip": Key(default=0.0, valid=[2], errors=number(OR_MORE_0), beside=GRPO),
    "train.thinking_length_penalty_coef": Key(
        default=0.0,
        valid=[0.001, 1],
        errors=number(OR_MORE_0, (1.5, "1 or less is wanted")),
        beside={**GRPO, "thinking": True},
    ),
    "train.stop_sequences": Key(
        default=[],
        valid=[["\n", "a"]],
        errors=[
            (3, "a list is wanted"),
            ([1], 'train.stop_sequences.0 is 1, but a text is wanted: write "1"'),
        ],
        beside=GRPO,
    ),
    "train.max_lag": Key(default=1, valid=[0, 4], errors=whole(0), beside=GRPO),
    "train.loss": Key(
        default="dr_grpo", valid=["dr_grpo"], errors=[("ppo", "only 'dr_grpo' is known")], beside=GRPO
    ),
    "train.importance_correction": Key(
        default="truncate",
        valid=["none"],
        errors=[("mask", "it is one of 'truncate' or 'none'")],
        beside=GRPO,
    ),
    "train.credit": Key(
        default="episode", valid=["episode"], errors=[("turn", "only 'episode' is known")], beside=GRPO
    ),
    "wandb": Key(
        default=None,
        valid=[],
        errors=[
            (True, TABLE.format("wandb")),
            ({"projct": "p"}, "wandb.projct is unknown: did you mean wandb.project?"),
        ],
    ),
    "wandb.project": Key(
        default="flash",
        valid=["my project", "x" * 128],
        errors=[
            (3, 'a text is wanted: write "3"'),
            ("", "a name of 1 to 128 characters is wanted, none of them one of / \\ # ? % :"),
            ("team/project", "a name of 1 to 128 characters is wanted, none of them one of / \\ # ? % :"),
        ],
        beside={"wandb": {}},
    ),
    "wandb.run_name": Key(
        default="", valid=["third try"], errors=[(3, 'a text is wanted: write "3"')], beside={"wandb": {}}
    ),
    "worker_env": Key(
        default={},
        valid=[{"FEATURE_FLAG": "enabled", "MAX_TOKENS": "3", "EMPTY": ""}],
        errors=[
            (3, TABLE.format("worker_env")),
            ({"A": 3}, 'worker_env.A is 3, but a text is wanted: write "3"'),
            (
                {"a-b": ""},
                "worker_env.a-b names no environment variable: letters, digits and underscores are wanted",
            ),
            ({"Path": ""}, "worker_env.Path is set by the platform: choose another name"),
            ({"FLASH_URL": ""}, "worker_env.FLASH_URL is set by the platform: choose another name"),
            (
                {"JUDGE_API_KEY": "x"},
                "worker_env.JUDGE_API_KEY looks like a secret, by its name, and worker_env is part of the run's spec: "
                'write secrets = ["JUDGE_API_KEY"] under [environment] instead',
            ),
            (
                {"JUDGE": f"sk-{LONG}"},
                "worker_env.JUDGE holds an API key, and worker_env is part of the run's spec: "
                'write secrets = ["JUDGE"] under [environment] instead',
            ),
            ({"A": "a\0b"}, 'worker_env.A is "a\\u0000b", but an environment variable cannot hold a NUL'),
        ],
    ),
}  # fmt: skip


def config(key: str, value: Any) -> RunConfig:
    return checked(at(key, value, {"model": MODEL, **KEYS[key].beside}))


def at(key: str, value: Any, below: Table) -> Table:
    for part in reversed(key.split(".")):
        value = {part: value}
    return merged(below, value)


def read(found: Any, key: str) -> Any:
    for part in key.split("."):
        found = getattr(found, part)
    return found


def keys_of(section: type[Section], above: str = "") -> Iterator[str]:
    for name, about in section.model_fields.items():
        yield above + name
        for kind in ALGORITHMS.values() if name == "train" else [about.annotation]:
            for table in [kind, *get_args(kind)]:
                if isinstance(table, type) and issubclass(table, Section):
                    yield from keys_of(table, f"{above}{name}.")


def test_every_key_there_is_stands_in_the_table() -> None:
    assert sorted(set(keys_of(RunConfig))) == sorted(KEYS)


@pytest.mark.parametrize("key", [key for key in KEYS if key not in ("model", "train")])
def test_a_key_has_the_documented_default(key: str) -> None:
    about = KEYS[key]
    plain: Table = {"model": MODEL, **about.beside}

    assert read(checked(plain), key) == about.default
    if not about.beside and about.default is not None and not (key == "algorithm" or _is_sft(key)):
        assert read(checked({**plain, **GRPO}), key) == (about.default if about.grpo is None else about.grpo)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, about in KEYS.items() for value in about.valid])
def test_a_key_takes_what_it_is_for(key: str, value: Any) -> None:
    assert read(config(key, value), key) == value


@pytest.mark.parametrize(
    ("key", "value", "wanted"), [(key, *error) for key, about in KEYS.items() for error in about.errors]
)
def test_an_error_names_the_key_what_was_found_and_what_is_wanted(key: str, value: Any, wanted: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config(key, value)

    whole_sentence = wanted.startswith((key, f"{key} is"))
    expected = wanted if whole_sentence else f"{key} is {shown(value)}, but {wanted}"
    assert str(raised.value).startswith(expected)
    assert whole_sentence or str(raised.value) == expected


@pytest.mark.parametrize(
    "path", ["name", "note", "model", "environment.id", "train.loss", "train.init_from_adapter", "worker_env.A"]
)
def test_where_a_text_stands_a_number_is_one(path: str) -> None:
    assert is_text(path.split("."))
    assert settings([f"{path}=300"], is_text) == at(path, "300", {})
    assert settings([f'{path}="300"'], is_text) == at(path, "300", {})


@pytest.mark.parametrize("path", ["train.steps", "tags", "environment.params.a", "thinking", "train", "zzz", "name.x"])
def test_elsewhere_it_is_a_number(path: str) -> None:
    assert not is_text(path.split("."))
    assert settings([f"{path}=300"], is_text) == at(path, 300, {})


def _is_sft(key: str) -> bool:
    knob = key.removeprefix("train.")
    return key != knob and knob not in ALGORITHMS["grpo"].model_fields
