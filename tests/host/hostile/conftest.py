"""The world that is attacked, and the environment that attacks it."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
ENVIRONMENT = '''
import attacks
from envsdk import EnvironmentMultiTurn, EnvironmentSingleTurn, EnvironmentStepResult, RewardResult

WORLD, FOUND = {}, []

class Hostile(EnvironmentSingleTurn):
    """0.25 for `ok`; else attacks: 1.0 for loot, 0.5 for none, 0.0 for being refused."""
    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def score_response(self, example, text):
        if text == "ok":
            return 0.25
        if text.startswith("= "):
            return eval(text[2:])
        return made(getattr(attacks, text))

class InEpisodes(EnvironmentMultiTurn):
    """Attacks from the step of an episode, which earns what came of the last."""
    def start_episode(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def max_episode_turns(self, example):
        return 2
    def step_episode(self, example, messages, text):
        self.found = RewardResult(0.25) if text == "ok" else made(getattr(attacks, text))
        return EnvironmentStepResult(done=False)
    def score_episode(self, example, episode):
        return self.found

def made(attack):
    try:
        loot = attack(WORLD)
    except attacks.CONTAINED:
        return RewardResult(0.0)
    if loot is None:
        return RewardResult(0.5)
    return RewardResult(1.0, metadata={"loot": str(loot)[:200]})

def load_environment(world, at_import=None, in_episodes=False):
    WORLD.update(world)
    if at_import:
        FOUND.append(made(getattr(attacks, at_import)))
    return InEpisodes() if in_episodes else Hostile()
'''


@pytest.fixture(scope="module")
def world() -> Iterator[Any]:
    with loaded("world").world() as made:
        yield made


@pytest.fixture(scope="module")
def folder(world: Any) -> Path:
    """The environment's."""
    made: Path = world.folder / "environment"
    made.mkdir()
    (made / "environment.py").write_text(ENVIRONMENT)
    shutil.copytree(HERE / "attacks", made / "attacks", ignore=shutil.ignore_patterns("__pycache__"))
    made.chmod(0o755)
    return made


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"hostile_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`@pytest.mark.attacks(...)`: the names of these kinds of attack, which `kinds.py` knows."""
    if marker := metafunc.definition.get_closest_marker("attacks"):
        kinds = loaded("kinds")
        names = [name for kind in marker.args for name in getattr(kinds, kind, [kind])]
        metafunc.parametrize("attack", names)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "attacks(*kinds): which attacks a test is given")
