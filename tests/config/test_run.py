"""The run config: flash/config/run.py."""

from pathlib import Path
from typing import Any

import pytest

from flash.config.keys import GrpoTrain, RunConfig, SftTrain
from flash.config.resolving import WarmStart, new_run_id, preview, require_environment, resolve
from flash.config.run import checked, load
from flash.contracts.requests import EnvironmentVersion
from flash.contracts.spec import SamplingSpec
from flash.contracts.values import PolicyRef
from flash.errors import ConfigError
from flash.models import card

HUB_MODEL = "Qwen/Qwen3-0.6B"
"""A model of the catalogue whose card has no recipe of its own."""


def config(
    algorithm: str = "grpo", *, model: str = HUB_MODEL, train: dict[str, Any] | None = None, **top: Any
) -> RunConfig:
    return checked({"model": model, "algorithm": algorithm, "train": train or {}, **top})


def version(**fields: Any) -> EnvironmentVersion:
    return EnvironmentVersion(
        **{
            "id": "local/sums",
            "version": "abcdef123456",
            "digest": "abcdef123456" + "0" * 52,
            "key": "environments/local/sums/abcdef123456.tar.zst",
            "packed_bytes": 10,
            "published_at": 1.0,
            **fields,
        }
    )


def start(**fields: Any) -> WarmStart:
    given = {
        "reference": "flash-1-00000000/step-8",
        "policy": PolicyRef(version=8, key="k", digest="d"),
        "model": HUB_MODEL,
    }
    return WarmStart(**{**given, "lora_rank": 16, "lora_alpha": 48, **fields})


def complaint(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as raised:
        checked({"model": HUB_MODEL, **values})
    return str(raised.value)


def test_sft_has_the_documented_defaults() -> None:
    train = config("sft").train

    assert isinstance(train, SftTrain)
    assert train.model_dump() == {
        "lora_rank": 32, "lora_alpha": 64, "learning_rate": 1e-4, "batch_size": 32, "max_length": 1024,
        "save_every": 50, "init_from_adapter": None, "max_faults": 0.2, "eval_every": 0,
        "eval_split": "eval", "epochs": 2, "max_steps": 0, "max_examples": 0,
    }  # fmt: skip


def test_grpo_has_the_documented_defaults() -> None:
    train = config("grpo").train

    assert isinstance(train, GrpoTrain)
    assert train.model_dump() == {
        "lora_rank": 32, "lora_alpha": 64, "learning_rate": 1e-5, "batch_size": 64, "max_length": 2368,
        "save_every": 20, "init_from_adapter": None, "max_faults": 0.2, "eval_every": 0,
        "eval_split": "eval", "steps": 150, "group_size": 8,
        "temperature": 1.0, "max_tokens": 320, "kl_penalty_coef": 0.0, "advantage_clip": 0.0,
        "thinking_length_penalty_coef": 0.0, "stop_sequences": [], "max_lag": 1,
        "loss": "dr_grpo", "importance_correction": "truncate", "credit": "episode",
    }  # fmt: skip


def test_thinking_gives_more_room() -> None:
    sft, grpo = config("sft", thinking=True).train, config("grpo", thinking=True).train

    assert sft.max_length == 2048
    assert isinstance(grpo, GrpoTrain)
    assert (grpo.max_tokens, grpo.max_length) == (1536, 2048 + 1536)


def test_a_longer_answer_makes_the_sequence_longer() -> None:
    assert config("grpo", train={"max_tokens": 1000}).train.max_length == 3048


def test_the_models_own_recipe_beats_the_defaults_and_the_person_beats_both() -> None:
    recipe = card("smollm2-135m").grpo

    plain = config("grpo", model="smollm2-135m").train
    written = config("grpo", model="smollm2-135m", train={"learning_rate": 5e-5}).train

    assert plain.learning_rate == recipe["learning_rate"]
    assert plain.batch_size == recipe["batch_size"]
    assert written.learning_rate == 5e-5


@pytest.mark.parametrize("model", ["tiny", "smollm2-135m"])
@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
def test_the_models_of_the_laptop_have_defaults_that_hold(model: str, algorithm: str) -> None:
    assert config(algorithm, model=model).train.max_length <= card(model).context


def test_zero_is_an_honest_temperature() -> None:
    train = config(train={"temperature": 0}).train

    assert isinstance(train, GrpoTrain)
    assert train.temperature == 0.0


def test_one_text_is_one_stop_sequence_and_empty_ones_are_dropped() -> None:
    one, many = config(train={"stop_sequences": "\n"}).train, config(train={"stop_sequences": ["", "a"]}).train

    assert isinstance(one, GrpoTrain)
    assert isinstance(many, GrpoTrain)
    assert one.stop_sequences == ["\n"]
    assert many.stop_sequences == ["a"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"sed": 3}, "sed is unknown: did you mean seed?"),
        ({"lora_rank": 8}, "lora_rank is unknown at the top: it belongs under [train]"),
        ({"params": {}}, "params is unknown at the top: it belongs under [environment]"),
        ({"grpo": {"steps": 3}}, "grpo is unknown at the top: it belongs under [train]"),
        ({"environment": {"parms": {}}}, "environment.parms is unknown: did you mean environment.params?"),
        ({"environment": {"epochs": 3}}, "environment.epochs is unknown: it belongs under [train]"),
        ({"train": {"tags": []}}, "train.tags is unknown: it belongs under the top, before any table"),
        ({"train": {"a\nb": 3}}, 'train."a\\nb" is unknown; known there: lora_rank, '),
        ({"zzz": 3}, "zzz is unknown; known at the top: model, algorithm, "),
        (
            {"algorithm": "grpo", "train": {"kl_penalty_coeff": 0.1}},
            "train.kl_penalty_coeff is unknown: did you mean train.kl_penalty_coef?",
        ),
        (
            {"algorithm": "grpo", "train": {"thinking_length_penalty_coeff": 0.1}},
            "train.thinking_length_penalty_coeff is unknown: did you mean train.thinking_length_penalty_coef?",
        ),
        (
            {"train": {"group_size": 8}},
            'train.group_size is a knob of grpo, but algorithm is "sft": remove it, or set algorithm = "grpo"',
        ),
        (
            {"algorithm": "grpo", "train": {"epochs": 8}},
            'train.epochs is a knob of sft, but algorithm is "grpo": remove it, or set algorithm = "sft"',
        ),
        ({"gpu": {"type": "H200"}}, "gpu is managed by the platform and is no knob: remove it"),
        ({"train": {"max_retries": 3}}, "train.max_retries is managed by the platform and is no knob: remove it"),
        (
            {"notify": {"webhook": "https://example.org"}},
            "notify is a key of a later version, and this version of Flash sends no notifications: remove it, and "
            "`flash status RUN -f` follows a run",
        ),
        (
            {"algorithm": "grpo", "train": {"max_length": 100, "max_tokens": 100}},
            "train.max_tokens is 100, but a sequence has at most train.max_length = 100 tokens, the prompt included: "
            "leave room for it",
        ),
        (
            {"environment": {"secrets": ["JUDGE"]}, "worker_env": {"JUDGE": "a"}},
            "worker_env.JUDGE is also a name under environment.secrets: remove one of them",
        ),
        (
            {"model": "smollm2-135m", "thinking": True},
            "thinking is true, but smollm2-135m does not reason: set it to false",
        ),
        (
            {"algorithm": "grpo", "train": {"thinking_length_penalty_coef": 0.1}},
            "train.thinking_length_penalty_coef is 0.1, but thinking is false, so there are no thoughts to shorten: "
            "set thinking = true or leave it out",
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_told_in_one_sentence(values: dict[str, Any], sentence: str) -> None:
    told = complaint(values)

    assert told.startswith(sentence)
    assert "\n" not in told


def test_every_mistake_has_its_line() -> None:
    assert complaint({"sed": 3, "train": {"epochs": 0, "batch": 3}}).splitlines() == [
        "train.epochs is 0, but 1 or more is wanted",
        "train.batch is unknown: did you mean train.batch_size?",
        "sed is unknown: did you mean seed?",
    ]


def test_a_config_without_a_model_is_told_to_name_one() -> None:
    with pytest.raises(ConfigError, match="model is missing: name the base model to train"):
        checked({})


def test_a_model_that_nobody_knows_is_met_with_the_nearest_one() -> None:
    assert complaint({"model": "smollm2-135"}) == (
        "model is \"smollm2-135\", but no model of the catalogue is called 'smollm2-135': did you mean 'smollm2-135m'?"
    )


def test_an_empty_environment_tells_to_push() -> None:
    with pytest.raises(ConfigError, match=r"environment.id is empty: publish the folder with `flash env push"):
        require_environment(config())


def test_files_and_settings_are_laid_over_one_another(tmp_path: Path) -> None:
    base, over = tmp_path / "sft.toml", tmp_path / "grpo.toml"
    base.write_text('model = "tiny"\n[train]\nepochs = 3\nlora_rank = 8\n')
    over.write_text('algorithm = "grpo"\n[train]\nsteps = 5\nlora_rank = 4\n')
    notes: list[str] = []

    found = load(base, [over], ["train.steps=7", "environment.id=local/x"], say=notes.append)

    assert isinstance(found.train, GrpoTrain)
    assert (found.train.steps, found.train.lora_rank, found.environment.id) == (7, 4, "local/x")
    assert notes == ["algorithm is now grpo: dropped train.epochs, which only sft knows"]


def test_a_missing_config_points_to_setup(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no config .*rl.toml: `flash env setup` writes"):
        load(tmp_path / "rl.toml")


def test_a_config_that_is_no_toml_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("model = \n")

    with pytest.raises(ConfigError, match=r"a.toml is no TOML: .*line 1"):
        load(tmp_path / "a.toml")


def test_a_grpo_spec_holds_everything_the_services_need() -> None:
    written = {"steps": 5, "group_size": 4, "max_tokens": 64, "stop_sequences": ["\n"], "advantage_clip": 2.0}
    found = config(train=written, name="first", environment={"id": "local/sums", "params": {"split": "easy", "n": 3}})

    spec = resolve(found, version(), run_id="flash-1-00000001")

    assert spec.sampling is not None
    assert spec.train is not None
    assert (spec.sampling.group_size, spec.sampling.max_tokens, spec.sampling.stop_sequences) == (4, 64, ["\n"])
    assert (spec.train.steps, spec.train.batch_size, spec.train.advantage_clip) == (5, 64, 2.0)
    assert (spec.environment.version, spec.environment.params, spec.split) == (
        "abcdef123456", {"split": "easy", "n": 3}, "easy",
    )  # fmt: skip
    assert (spec.pool, spec.reference, spec.name, spec.seed) == (card(HUB_MODEL).pool, HUB_MODEL, "first", 42)


@pytest.mark.parametrize(("algorithm", "most"), [("grpo", 256), ("sft", 320)])
def test_a_run_whose_policies_are_evaluated_says_on_what_and_how(algorithm: str, most: int) -> None:
    knobs = {"eval_every": 5, "eval_split": "held-out"} | ({"max_tokens": 256} if algorithm == "grpo" else {})
    spec = resolve(config(algorithm, train=knobs), version(), run_id="r1").of("eval")

    assert spec.split == "held-out"
    assert spec.sampling == SamplingSpec(group_size=1, temperature=1.0, max_tokens=most)
    assert resolve(config(algorithm), version(), run_id="r1").of("eval").sampling is None


def test_an_sft_spec_samples_nothing() -> None:
    spec = resolve(config("sft", train={"epochs": 3, "max_examples": 10}), version(), run_id="flash-1-00000001")

    assert spec.sampling is None
    assert spec.train is not None
    assert (spec.train.epochs, spec.train.max_examples, spec.train.max_steps) == (3, 10, 0)


def test_the_system_text_is_the_params_else_the_packages_own() -> None:
    package = version(prompt_text="Be kind.")

    own = resolve(config(), package, run_id="flash-1-00000001")
    told = resolve(config(environment={"params": {"contract_text": "Be brief."}}), package, run_id="flash-1-00000001")

    assert (own.prompt_text, told.prompt_text) == ("Be kind.", "Be brief.")


def test_a_warm_start_takes_rank_and_alpha_from_the_adapter() -> None:
    warm = config(train={"init_from_adapter": "flash-1-00000000"})

    spec = resolve(warm, version(), run_id="flash-1-00000001", warm_start=start())

    assert spec.train is not None
    assert (spec.train.lora_rank, spec.train.lora_alpha) == (16, 48)
    assert spec.train.init_from_adapter == start().policy
    assert spec.reference == "flash-1-00000000/step-8"


def test_a_warm_start_from_another_rank_is_refused() -> None:
    warm = config(train={"init_from_adapter": "flash-1-00000000", "lora_rank": 8})

    with pytest.raises(ConfigError, match=r"train.lora_rank is 8, but flash-1-00000000/step-8, .* has 16: write 16"):
        resolve(warm, version(), run_id="flash-1-00000001", warm_start=start())


def test_a_warm_start_from_another_model_is_refused() -> None:
    warm = config(train={"init_from_adapter": "flash-1-00000000"})

    with pytest.raises(ConfigError, match=r"an adapter of tiny, but the run's model is Qwen/Qwen3-0.6B"):
        resolve(warm, version(), run_id="flash-1-00000001", warm_start=start(model="tiny"))


def test_what_the_platform_decides_is_part_of_the_spec_and_no_knob() -> None:
    platform = preview(config(environment={"id": "local/sums"}), run_id="flash-1-00000001")["platform"]

    assert platform["resources"] == card(HUB_MODEL).pool
    assert (platform["storage"], platform["retries"], platform["wall_clock_s"]) == (
        "runs/flash-1-00000001/",
        5,
        86_400.0,
    )


def test_worker_env_is_part_of_the_spec() -> None:
    found = config(worker_env={"FEATURE_FLAG": "enabled"}, environment={"id": "local/sums"})

    assert resolve(found, version(), run_id="flash-1-00000001").environment.worker_env == {"FEATURE_FLAG": "enabled"}
    assert preview(found, run_id="flash-1-00000001")["environment"]["worker_env"] == {"FEATURE_FLAG": "enabled"}


def test_a_param_that_looks_like_a_credential_is_warned_of(tmp_path: Path) -> None:
    file, told = tmp_path / "run.toml", list[str]()
    file.write_text(
        f'model = "tiny"\n[environment.params]\njudge_api_key = "x"\nurls = ["sk-{"a" * 40}"]\nmax_tokens = "3"\n'
    )

    load(file, say=told.append)

    assert [line.partition(", and params")[0] for line in told] == [
        "warning: environment.params.judge_api_key looks like a credential, by its name",
        "warning: environment.params.urls looks like an API key",
    ]


def test_a_model_of_ones_own_needs_the_policy_that_allows_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 99}')

    assert config(model=str(tmp_path), model_policy="allow").train.max_length == 99
    assert config(model="someone/else", model_policy="allow").train.max_length == 2_368
    assert config(model=f"{tmp_path}/../{tmp_path.name}/", model_policy="allow").model == str(tmp_path)
    for model in (str(tmp_path), "someone/else"):
        assert 'model_policy = "allow" takes any causal model' in complaint({"model": model})


def test_a_preview_leaves_open_what_only_the_hub_knows() -> None:
    found = config(environment={"id": "local/sums"}, train={"init_from_adapter": "flash-1-00000000"})

    spec = preview(found, run_id="flash-1-00000001")

    assert spec["environment"].items() >= {"id": "local/sums", "version": None, "digest": None, "key": None}.items()
    assert (spec["train"]["lora_rank"], spec["train"]["init_from_adapter"]) == (None, "flash-1-00000000")


def test_a_run_id_says_when_it_was_made() -> None:
    assert new_run_id(1700000000.9, draw=lambda size: "ab" * size) == "flash-1700000000-abababab"
