"""A starter project on disk: cli/scaffold.py and the templates."""

import importlib.util
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cli import scaffold
from cli.__main__ import main
from cli.scaffold import TEMPLATES, configs_without_id, fill_in, lay_down, with_id
from envsdk import EnvironmentEpisode, load_environment, load_task_examples, warn_missing_think_tags
from flash.config.run import load

OURS = ["starter", "larger", "sort"]
"""The templates that are no examples."""
EXAMPLES = Path(__file__).parents[2] / "examples"

SEEN = ["configs/rl.toml", "configs/sft.toml", "dataset/train.jsonl", "environment.py", "TRAINING.md"]


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def shipped(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def test_setup_lays_down_a_starter_project(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "setup"]) == 0

    assert capsys.readouterr().out.splitlines() == [f"ensured {name}" for name in SEEN]
    assert sorted(str(p.relative_to(project)) for p in project.rglob("*") if p.is_file()) == sorted(SEEN)
    assert rows(project / "dataset/train.jsonl") == [
        {"input": "What is 2 + 2?", "output": "4"},
        {"input": "What is 3 + 5?", "output": "8"},
    ]


def test_setup_leaves_what_is_there_as_it_is(project: Path) -> None:
    (project / "environment.py").write_text("mine = 1\n")

    main(["env", "setup", "-y"])
    main(["env", "setup", "-y"])

    assert (project / "environment.py").read_text() == "mine = 1\n"


def test_a_template_that_is_not_there_is_met_with_those_that_are(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["env", "setup", "--template", "nope"]) == 1

    assert "there is no template 'nope'; there are starter, larger, sort, arithmetic" in capsys.readouterr().err


@pytest.mark.parametrize("template", sorted(TEMPLATES.keys() - OURS))
def test_an_example_is_laid_down_whole(template: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "setup", "--template", template]) == 0

    said = capsys.readouterr()
    assert "README.md has the commands of this one, and the number it should reach." in said.err
    wanted = {path.relative_to(EXAMPLES / template) for path in shipped(EXAMPLES / template)}
    assert {path.relative_to(project) for path in shipped(project)} == wanted | {Path("TRAINING.md")}
    for path in wanted:
        assert (project / path).read_bytes() == (EXAMPLES / template / path).read_bytes()


def test_every_example_is_a_template_and_an_installed_flash_has_it_where_it_is_looked_for() -> None:
    project = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]

    assert {path.parent.name for path in EXAMPLES.glob("*/README.md")} == TEMPLATES.keys() - OURS
    assert {EXAMPLES.parent / place for place in included.values()} == {scaffold._EXAMPLES[0]}


def test_the_starter_says_which_template_learns_within_minutes_on_a_laptop(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["env", "setup", "-y"])

    said = capsys.readouterr().err
    assert "on a laptop: --template sort (tiny learns to sort a few digits" in said.replace("\n", " ")
    assert "Others: larger, arithmetic" in said
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_config_of_every_template_holds_once_it_has_its_id(template: str, tmp_path: Path) -> None:
    list(lay_down(template, tmp_path))
    waiting = configs_without_id(tmp_path)

    for path in waiting:
        fill_in(path, "local/mine")
        config = load(path)
        assert config.environment.id == "local/mine"
        assert config.algorithm == {"sft": "sft", "rl": "grpo"}[path.stem]

    assert waiting == sorted((tmp_path / "configs").glob("*.toml"))
    assert waiting


@pytest.mark.parametrize("template", OURS)
def test_every_template_pays_for_the_expected_answer_and_not_for_another(template: str, tmp_path: Path) -> None:
    list(lay_down(template, tmp_path))
    environment: Any = load_environment(str(tmp_path / "environment.py"))
    examples = load_task_examples(tmp_path / "dataset" / "train.jsonl")

    for example in examples[:20]:
        right, wrong = (environment.score_response(example, text) for text in (example.output, "no idea"))
        assert (right.score, right.resolved_success()) == (1.0, True)
        assert (wrong.score, wrong.resolved_success()) == (0.0, False)
        assert environment.build_prompt_messages(example, "") == [{"role": "user", "content": example.input}]


def test_a_nearly_sorted_list_earns_its_share(tmp_path: Path) -> None:
    list(lay_down("sort", tmp_path))
    environment: Any = load_environment(str(tmp_path / "environment.py"))
    (example,) = load_task_examples([{"input": "Sort: 3 1 2 0", "output": "0 1 2 3"}])

    nearly = environment.score_response(example, "0 1 3 2")

    assert nearly.score == 0.5
    assert nearly.resolved_success() is False
    assert environment.score_response(example, "0 1 2").score == 0.0


@pytest.mark.parametrize("template", ["larger", "sort"])
def test_the_rows_are_what_the_generator_writes_and_the_held_out_ones_are_apart(template: str, tmp_path: Path) -> None:
    list(lay_down(template, tmp_path))
    spec = importlib.util.spec_from_file_location("generate", tmp_path / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    shipped = {name: (tmp_path / "dataset" / f"{name}.jsonl").read_text() for name in ("train", "eval")}

    generate.write(tmp_path / "dataset")

    assert {name: (tmp_path / "dataset" / f"{name}.jsonl").read_text() for name in shipped} == shipped
    train, held_out = (rows(tmp_path / "dataset" / f"{name}.jsonl") for name in ("train", "eval"))
    assert not {row["input"] for row in train} & {row["input"] for row in held_out}
    assert len(train) == 512


def test_an_id_goes_into_its_empty_place_and_nothing_else_changes() -> None:
    config = 'model = "tiny"\nid = ""\n\n[environment]\nid = "" # here\nparams = {}\n\n[other]\nid = ""\n'

    assert with_id(config, "local/x") == config.replace('id = "" # here', 'id = "local/x" # here')


@pytest.mark.parametrize(
    "config", ['[environment]\nid = "local/y"\n', 'id = ""\n', '[environment]\n[other]\nid = ""\n']
)
def test_a_config_without_an_empty_place_is_left_alone(config: str) -> None:
    assert with_id(config, "local/x") is None


def test_only_configs_that_wait_for_an_id_are_offered_one(tmp_path: Path) -> None:
    list(lay_down("starter", tmp_path))
    fill_in(tmp_path / "configs" / "rl.toml", "local/x")

    assert [path.name for path in configs_without_id(tmp_path)] == ["sft.toml"]


@pytest.mark.parametrize(
    ("shapes", "thinks", "turns"),
    [
        ([], False, 1),
        (["--multi-turn"], False, 3),
        (["--reasoning"], True, 1),
        (["--multi-turn", "--reasoning"], True, 3),
    ],
)
def test_the_starter_takes_several_turns_or_a_thought_where_it_is_asked_to(
    shapes: list[str], thinks: bool, turns: int, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["env", "setup", *shapes]) == 0

    assert capsys.readouterr().out.splitlines() == [f"ensured {name}" for name in SEEN]
    environment: Any = load_environment(str(project / "environment.py"))
    example, _ = environment.dataset
    assert example.input == "What is 2 + 2?"
    assert environment.max_episode_turns(example) == turns
    assert warn_missing_think_tags(environment.dataset) == [] if thinks else example.output == "4"
    for name in ("configs/sft.toml", "configs/rl.toml"):
        fill_in(project / name, "local/x")
        assert load(project / name).thinking is thinks


def test_a_right_answer_at_the_first_try_earns_all_and_later_ones_less(tmp_path: Path) -> None:
    list(lay_down("starter", tmp_path, ["multi-turn"]))
    environment: Any = load_environment(str(tmp_path / "environment.py"))
    example = environment.dataset[0]

    def played(*said: str) -> float:
        steps = [environment.step_episode(example, [], text) for text in said]
        assert [step.done for step in steps[:-1]] == [False] * (len(steps) - 1)
        metadata = {"steps": [step.metadata for step in steps]}
        reward = environment.score_episode(example, EnvironmentEpisode((), said[-1], metadata=metadata))
        return float(reward.score)

    assert played("4") == played("<think>2 and 2</think> 4") == 1.0
    assert played("5", "4") == pytest.approx(2 / 3)
    assert played("5", "5", "5") == 0.0


def test_only_the_starter_takes_a_shape(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "setup", "--template", "sort", "--multi-turn"]) == 1

    assert "--multi-turn shape the starter, but sort has its own" in capsys.readouterr().err


def test_setup_says_which_model_is_still_to_be_fetched(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["env", "setup", "-y"])
    starter = capsys.readouterr().err
    (project / "configs/rl.toml").write_text("model = [")
    main(["env", "setup", "-y"])

    assert "the configs train smollm2-135m, which is not here yet:\n  flash models pull smollm2-135m\n" in starter
    assert "flash up -d" in starter
    assert "Traceback" not in capsys.readouterr().err
