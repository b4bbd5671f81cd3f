"""Finding an author's factory, and calling it with what it names."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from envsdk.environments import Environment

FLASH_PARAMS = frozenset({"split", "dataset_path", "records", "contract_text", "contract_path"})
"""Params that Flash itself reads: given to a factory that names them, never rejected."""


class MissingParam(TypeError):
    """A factory wants a param that is not given."""

    def __init__(self, origin: str, names: Sequence[str]) -> None:
        self.need = f"the param{'s' if len(names) > 1 else ''} {', '.join(names)}"
        super().__init__(f"{origin} needs {self.need}: give it under [environment.params], or a default")


def load_environment(reference: str | Path | None = None, **params: Any) -> "Environment":
    """`file.py[:attr]`, a folder with an `environment.py`, or `module[:attr]`; without one, `./environment.py`.

    Raises FileNotFoundError for no such file, AttributeError where the file lacks the factory, TypeError where it is
    not callable, does not name a param, or gives no environment.
    """
    from envsdk import dialects

    dialects.install()
    factory, origin = find_factory(reference, "load_environment")
    environment: Any = factory(**accepted_params(factory, params, origin))
    return checked_environment(environment, origin)


def checked_environment(environment: Any, origin: str) -> "Environment":
    """Raises TypeError for what is no environment."""
    from envsdk import dialects

    if not isinstance(environment, dialects.environment_types()):
        raise TypeError(
            f"{origin} gave a {type(environment).__name__}, wanted an EnvironmentSingleTurn or an "
            "EnvironmentMultiTurn, or one of the verifiers dialect"
        )
    return cast("Environment", environment)


def find_factory(reference: str | Path | None, attribute: str) -> tuple[Callable[..., Any], str]:
    """A function of the author's, and what to call it in an error."""
    place, _, named = str(reference or "environment.py").partition(":")
    attribute = named or attribute
    module = _module(place)
    origin = f"{attribute}() of {Path(place).name}"
    if not hasattr(module, attribute):
        found = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise AttributeError(f"{place} has no {attribute}; it has {', '.join(found[:10]) or 'nothing callable'}")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise TypeError(f"{attribute} in {place} is a {type(factory).__name__}, wanted a function")
    return factory, origin


def accepted_params(factory: Callable[..., Any], params: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The params that the factory names; all of them if it takes `**kwargs`.

    Raises TypeError for one that it does not name and Flash does not read either, and MissingParam for one that it
    needs and that is not there.
    """
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # a builtin without a signature
        return dict(params)
    kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
    if inspect.Parameter.VAR_KEYWORD in kinds.values():
        return dict(params)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [name for name, kind in kinds.items() if kind in by_name]
    defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
    if lacking := [name for name in names if defaults[name] is inspect.Parameter.empty and name not in params]:
        raise MissingParam(origin, lacking)
    if unknown := sorted(params.keys() - set(names) - FLASH_PARAMS):
        raise TypeError(f"{origin} does not take {', '.join(unknown)}; it takes {', '.join(names) or 'no params'}")
    return {name: value for name, value in params.items() if name in names}


def named_params(factory: Callable[..., Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """The params that the factory names, or all; the others are somebody else's."""
    kinds = [parameter.kind for parameter in inspect.signature(factory).parameters.values()]
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return dict(params)
    return {name: value for name, value in params.items() if names_param(factory, name)}


def names_param(factory: Callable[..., Any], name: str) -> bool:
    """The factory asks for this param by name."""
    try:
        return name in inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return False


def _module(place: str) -> ModuleType:
    path = Path(place)
    if path.is_dir():
        path = path / "environment.py"
    if path.suffix != ".py":
        return importlib.import_module(place)
    path = path.resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; wanted a Python file that defines load_environment()")
    return _from_file(path)


def _from_file(path: Path) -> ModuleType:
    """Run the file as a module of its own name, its folder first on the path so that it finds its siblings."""
    folder = str(path.parent)
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(path.stem, None)
        raise
    return module
