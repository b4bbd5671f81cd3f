"""Finding the author's factory, in both dialects of imports, and choosing rows."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import envsdk
from envsdk import dialects, load_environment, load_evaluation_suites
from envsdk.hosted import Hosted
from envsdk.splits import inside, prompt_text

ENVIRONMENT = """
from {package}environments import EnvironmentSingleTurn, RewardResult
from {package}{types} import TaskExample

class Env(EnvironmentSingleTurn):
    def build_prompt_messages(self, example: TaskExample, prompt_text: str):
        return [{{"role": "user", "content": example.input}}]
    def score_response(self, example, text):
        return RewardResult(score=1.0)

def load_environment({params}):
    env = Env()
    {body}
    return env
"""


@pytest.fixture(autouse=True)
def _own_modules() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(folder: Path, *, dialect: str = "envsdk", params: str = "", body: str = "pass", **files: str) -> Path:
    package, types = ("freesolo.", "datasets.types") if dialect == "freesolo" else ("envsdk.", "examples")
    code = ENVIRONMENT.format(package=package, types=types, params=params, body=body)
    for name, content in {"environment.py": code, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def rows(folder: Path, **params: Any) -> list[str]:
    told: list[dict[str, Any]] = []
    hosted = Hosted.load(folder, params)
    hosted.rows(
        {"split": params.get("split", "train"), "start": 0, "count": 100, "prompt_text": ""},
        lambda _, value: told.append(value),
    )
    if "fault" in told[-1]:
        raise ValueError(told[-1]["fault"]["message"])
    return [value["example"]["input"] for value in told[1:]]


@pytest.mark.parametrize("dialect", ["envsdk", "freesolo"])
def test_an_environment_loads_in_both_styles_of_import(tmp_path: Path, dialect: str) -> None:
    write(tmp_path, dialect=dialect)

    for reference in (tmp_path / "environment.py", f"{tmp_path}/environment.py:load_environment", tmp_path):
        assert isinstance(load_environment(reference), envsdk.EnvironmentSingleTurn)


def test_the_original_names_are_all_there() -> None:
    dialects.install()
    from freesolo import datasets, environments  # type: ignore[import-not-found]
    from freesolo.datasets import records, types  # type: ignore[import-not-found]

    assert environments.EvalSuite is envsdk.EvalSuite
    assert types.TaskExample is datasets.TaskExample is envsdk.TaskExample
    for module, names in (
        (environments, "Environment EnvironmentMultiTurn EnvironmentTurn EnvironmentStepResult load_environment"),
        (datasets, "Dataset PromptBuilder load_dataset stable_example_id target_messages warn_missing_think_tags"),
        (records, "load_task_examples load_records task_example_from_record normalize_record"),
    ):
        assert all(hasattr(module, name) for name in names.split())
    with pytest.raises(ModuleNotFoundError):
        __import__("freesolo.nothing")


def test_a_real_package_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "freesolo").mkdir()
    (tmp_path / "freesolo/__init__.py").write_text("REAL = True")
    sys.path.insert(0, str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "freesolo"]:
        del sys.modules[name]

    dialects.install()

    assert __import__("freesolo").REAL is True


def test_what_cannot_be_loaded_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def other(): ...")
    (tmp_path / "b.py").write_text("load_environment = 3")
    (tmp_path / "c.py").write_text("def load_environment(): return 'text'")

    with pytest.raises(FileNotFoundError, match=r"nowhere\.py is not there"):
        load_environment(tmp_path / "nowhere.py")
    with pytest.raises(AttributeError, match="has no load_environment; it has other"):
        load_environment(tmp_path / "a.py")
    with pytest.raises(TypeError, match="is a int, wanted a function"):
        load_environment(tmp_path / "b.py")
    with pytest.raises(TypeError, match="gave a str, wanted an EnvironmentSingleTurn"):
        load_environment(tmp_path / "c.py")


def test_a_param_that_the_factory_does_not_name_is_rejected_unless_flash_reads_it(tmp_path: Path) -> None:
    folder = write(tmp_path, params="level=1", body="env.level = level")

    assert load_environment(folder, level=3, split="eval").level == 3  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="does not take levle; it takes level"):
        load_environment(folder, levle=3)
    write(tmp_path, params="**kwargs", body="env.given = kwargs")
    assert load_environment(folder, anything=1).given == {"anything": 1}  # type: ignore[attr-defined]


def test_siblings_of_the_environment_are_found(tmp_path: Path) -> None:
    body = "import beside_it; env.found = beside_it.MINE"
    folder = write(tmp_path, body=body, **{"beside_it.py": "MINE = 7"})

    assert load_environment(folder).found == 7  # type: ignore[attr-defined]


def test_a_split_is_a_file_and_a_missing_one_is_no_reason_to_take_another(tmp_path: Path) -> None:
    write(tmp_path, **{"dataset/train.jsonl": '{"input": "t"}', "eval.json": '["e"]', "other.jsonl": '"o"'})

    assert rows(tmp_path) == ["t"]
    assert rows(tmp_path, split="eval") == ["e"]
    assert rows(tmp_path, dataset_path="other.jsonl") == ["o"]
    assert rows(tmp_path, dataset_path="other.jsonl", records=[{"input": "r"}]) == ["r"]
    with pytest.raises(ValueError, match=r"no dataset/test\.jsonl, .* although there is a train split"):
        rows(tmp_path, split="test")
    with pytest.raises(ValueError, match="wanted letters, digits"):
        rows(tmp_path, split="../train")
    with pytest.raises(ValueError, match="leads out"):
        rows(tmp_path, dataset_path="../secret.jsonl")


def test_rows_made_in_code_win_for_the_default_split_only(tmp_path: Path) -> None:
    files = {"dataset/train.jsonl": '{"input": "file"}', "dataset/eval.jsonl": '{"input": "eval file"}'}
    write(tmp_path, body="env.dataset = [{'input': 'code'}]", **files)

    assert rows(tmp_path) == ["code"]
    assert rows(tmp_path, split="eval") == ["eval file"]
    write(tmp_path, params="split='train'", body="env.dataset = [{'input': 'code for ' + split}]", **files)
    assert rows(tmp_path, split="eval") == ["code for eval"]
    write(tmp_path, body="env.dataset = []", **files)
    with pytest.raises(ValueError, match="`dataset` holds no rows"):
        rows(tmp_path)


def test_a_plural_folder_is_hinted_at(tmp_path: Path) -> None:
    write(tmp_path, **{"datasets/train.jsonl": '{"input": "t"}'})

    with pytest.raises(ValueError, match="rename it to `dataset`"):
        rows(tmp_path)


def test_the_prompt_text_comes_from_param_then_file_then_contract(tmp_path: Path) -> None:
    assert prompt_text(tmp_path, {}) == ""
    (tmp_path / "TRAINING_CONTRACT.md").write_text("contract")
    (tmp_path / "other.md").write_text("other")

    assert prompt_text(tmp_path, {}) == "contract"
    assert prompt_text(tmp_path, {"contract_path": "other.md"}) == "other"
    assert prompt_text(tmp_path, {"contract_path": "other.md", "contract_text": "text"}) == "text"
    with pytest.raises(ValueError, match="leads out"):
        inside(tmp_path, "/etc/passwd")


def test_evaluation_suites_are_loaded_beside_the_environment(tmp_path: Path) -> None:
    (tmp_path / "evaluations.py").write_text(
        "from envsdk import EvalSuite, RewardResult\n"
        "class Suite(EvalSuite):\n"
        "    name = 'small'\n"
        "    def cases(self): return []\n"
        "    def score(self, case, text): return RewardResult(0.0)\n"
        "def load_evaluations(): return [Suite()]\n"
    )

    [suite] = load_evaluation_suites(tmp_path)

    assert suite.name == "small"
