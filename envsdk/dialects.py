"""What other SDKs' imports find: `from freesolo.environments import ...` and `import verifiers as vf`.

Ours where the real package is absent, in any interpreter, after `install()`.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

_VERIFIERS = {
    "verifiers": "",
    "verifiers.decorators": "marks",
    "verifiers.errors": "errors",
    "verifiers.types": "",
    "verifiers.parsers": "parsers",
    "verifiers.parsers.parser": "parsers",
    "verifiers.parsers.think_parser": "parsers",
    "verifiers.parsers.maybe_think_parser": "parsers",
    "verifiers.parsers.xml_parser": "parsers",
    "verifiers.rubrics": "rubrics",
    "verifiers.rubrics.rubric": "rubrics",
    "verifiers.rubrics.rubric_group": "rubrics",
    "verifiers.rubrics.judge_rubric": "judge",
    "verifiers.rubrics.math_rubric": "math",
    "verifiers.envs": "environments",
    "verifiers.envs.environment": "environments",
    "verifiers.envs.env_group": "groups",
    "verifiers.envs.multiturn_env": "environments",
    "verifiers.envs.singleturn_env": "environments",
    "verifiers.envs.tool_env": "tools",
    "verifiers.envs.stateful_tool_env": "stateful",
    "verifiers.utils": "math",
    "verifiers.utils.data_utils": "math",
}
"""The real package's modules, and where in `envsdk.verifiers` their names are."""


def install() -> None:
    """Make both dialects importable. A real package that can be imported goes first."""
    _install_freesolo()
    if not any(isinstance(finder, _Verifiers) for finder in sys.meta_path):
        sys.meta_path.append(_Verifiers())  # last: asked for what nobody else has found


def hosted_form(environment: Any) -> Any:
    """An environment of any dialect with the hooks of ours."""
    installed = _installed()
    if installed is not None and isinstance(environment, installed):
        from envsdk.installed import hosted_form as hosted_form_of_installed

        return hosted_form_of_installed(environment)
    theirs = sys.modules.get("envsdk.verifiers.environments")
    if theirs is None or not isinstance(environment, theirs.Environment):
        return environment
    from envsdk.verifiers.hosting import hosted_form as hosted_form_of_verifiers

    return hosted_form_of_verifiers(environment)


def environment_types() -> tuple[type, ...]:
    """The classes whose instances are environments: ours, and those of the real package where it is loaded."""
    from envsdk.environments import EnvironmentMultiTurn, EnvironmentSingleTurn

    theirs = vars(sys.modules.get("freesolo.environments", ModuleType("none")))
    names = ("EnvironmentSingleTurn", "EnvironmentMultiTurn")
    found = [theirs[name] for name in names if isinstance(theirs.get(name), type)]
    if verifiers := sys.modules.get("envsdk.verifiers.environments"):
        found.append(verifiers.Environment)
    if installed := _installed():
        found.append(installed)
    return tuple(dict.fromkeys([EnvironmentSingleTurn, EnvironmentMultiTurn, *found]))


def known_to_author(value: Any) -> Any:
    """A value of ours, such as a TaskExample, in the class that the author's imports give: the real package's where
    `freesolo` is one, so that `isinstance` holds and its methods are there."""
    ours = type(value)
    for module in ("freesolo.environments", "freesolo.datasets"):
        theirs = getattr(sys.modules.get(module), ours.__name__, ours)
        if theirs is not ours and isinstance(theirs, type):
            return theirs(**vars(value))
    return value


def multi_turn_types() -> tuple[type, ...]:
    """Those of them that take several turns."""
    return tuple(kind for kind in environment_types() if kind.__name__ == "EnvironmentMultiTurn")


def _installed() -> type | None:
    """The `Environment` of a real `verifiers` package that is loaded."""
    if "verifiers" not in sys.modules:
        return None
    from envsdk.installed import environment_type

    return environment_type()


class _Verifiers:
    """`verifiers` and its modules: each is filled from ours when it is first imported.

    A finder and loader without the base classes, whose module would bring much into every host.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _VERIFIERS or (fullname != "verifiers" and not self._is_ours()):
            return None
        return ModuleSpec(fullname, cast("Any", self), is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        ours = importlib.import_module("envsdk.verifiers")
        where = _VERIFIERS[module.__name__]
        source = importlib.import_module(f"envsdk.verifiers.{where}") if where else ours
        names = ours.__all__ if source is ours else [name for name in vars(source) if not name.startswith("_")]
        _fill(module, source, names)
        module.__dict__.update(__doc__=ours.__doc__, __getattr__=ours.__getattr__, flash=True)

    def _is_ours(self) -> bool:
        return getattr(sys.modules.get("verifiers"), "flash", False)


def _install_freesolo() -> None:
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


def _package(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = []  # a package without files: an unknown submodule is a ModuleNotFoundError
    return module


def _fill(module: ModuleType, source: ModuleType, names: list[str]) -> None:
    module.__dict__.update({name: getattr(source, name) for name in names})
