"""The original SDK's imports: `from freesolo.environments import ...` finds ours where that package is absent."""

import importlib.util
import sys
from types import ModuleType


def install() -> None:
    """Register `freesolo` and its submodules. Does nothing where the real package can be imported."""
    if "freesolo" in sys.modules or importlib.util.find_spec("freesolo") is not None:
        return
    from envsdk import datasets, environments, examples, records

    root, data = _package("freesolo"), _package("freesolo.datasets")
    types, rows = ModuleType("freesolo.datasets.types"), ModuleType("freesolo.datasets.records")
    envs = ModuleType("freesolo.environments")
    _fill(envs, environments, environments.__all__)
    _fill(types, examples, ["TaskExample", "Message"])
    _fill(types, datasets, ["PromptBuilder"])
    _fill(rows, records, records.__all__)
    _fill(data, examples, ["TaskExample", "warn_missing_think_tags"])
    _fill(data, records, records.__all__)
    _fill(data, datasets, ["Dataset", "PromptBuilder", "load_dataset"])
    data.__dict__.update(types=types, records=rows)
    root.__dict__.update(environments=envs, datasets=data)
    sys.modules.update({module.__name__: module for module in (root, envs, data, types, rows)})


def environment_types() -> tuple[type, ...]:
    """The classes whose instances are environments: ours, and those of the real package where it is loaded."""
    from envsdk.environments import EnvironmentMultiTurn, EnvironmentSingleTurn

    theirs = vars(sys.modules.get("freesolo.environments", ModuleType("none")))
    names = ("EnvironmentSingleTurn", "EnvironmentMultiTurn")
    found = [theirs[name] for name in names if isinstance(theirs.get(name), type)]
    return tuple(dict.fromkeys([EnvironmentSingleTurn, EnvironmentMultiTurn, *found]))


def multi_turn_types() -> tuple[type, ...]:
    """Those of them that take several turns."""
    return tuple(kind for kind in environment_types() if kind.__name__ == "EnvironmentMultiTurn")


def _package(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = []  # a package without files: an unknown submodule is a ModuleNotFoundError
    return module


def _fill(module: ModuleType, source: ModuleType, names: list[str]) -> None:
    module.__dict__.update({name: getattr(source, name) for name in names})
