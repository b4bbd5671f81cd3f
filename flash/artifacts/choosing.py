"""Which files of an environment's folder travel, and why the others stay."""

import os
import re
import stat
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flash.errors import EnvironmentFault

ENTRY = "environment.py"

_DATA_SUFFIXES = frozenset(
    {".jsonl", ".json", ".csv", ".txt", ".md", ".parquet", ".tsv", ".yaml", ".yml", ".bson"}
)  # fmt: skip
_PROJECT_FILES = frozenset(
    {"pyproject.toml", "uv.lock", "poetry.lock", "pdm.lock", "Pipfile", "Pipfile.lock", "package-lock.json"}
)
_SECRET_NAME = re.compile(
    r"""(?ix) ( id_(rsa|dsa|ecdsa|ed25519) | .*\.(pem|key|p12|pfx|jks|keystore|ppk|kdbx)
    | (aws_?)?credentials?(\.\w+)? | (client_)?secrets?(\.(json|ya?ml|toml|txt|csv|env))
    | service[-_]?account.*\.json | .*\.env(\..*)? | api_?keys?(\.\w+)? | _?netrc | kubeconfig | htpasswd )"""
)


@dataclass(frozen=True)
class LeftOut:
    path: str
    reason: str


def chosen(path: Path) -> tuple[dict[str, Path], list[LeftOut]]:
    """Files by their name in the archive, and what is not among them."""
    if path.is_file():
        if path.suffix != ".py":
            raise EnvironmentFault(f"{path} is no Python file; wanted a folder with {ENTRY}, or one file")
        return {ENTRY: path}, []
    if not path.is_dir():
        raise EnvironmentFault(f"{path} is not there; wanted a folder with {ENTRY}, or one file")
    files: dict[str, Path] = {}
    left_out: list[LeftOut] = []
    for entry in sorted(path.iterdir()):
        if reason := _reason_to_leave(entry):
            left_out.append(LeftOut(_shown(entry, path), reason))
        elif entry.is_dir():
            _refuse_link(entry, path)
            _walk(entry, path, files, left_out)
        else:
            _refuse_odd(entry, path)
            files[entry.name] = entry
    return files, left_out


def module_named(folder: Path, files: Mapping[str, Path]) -> str:
    """The module of this folder that is named like its project. Raises EnvironmentFault where there is none."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        module = str(project["project"]["name"]).replace("-", "_")
    except (OSError, ValueError, KeyError, TypeError):
        module = ""
    if not module.isidentifier() or not {f"{module}.py", f"{module}/__init__.py"} & files.keys():
        named = f", nor a {module}.py, as its pyproject.toml would have it" if module else ""
        raise EnvironmentFault(f"{folder} has no {ENTRY}, which defines load_environment(){named}")
    return module


def _reason_to_leave(entry: Path) -> str:
    """Why something at the root stays out; empty if it goes in."""
    if reason := _never(entry):
        return reason
    if entry.is_dir():
        if entry.name == "dataset" or (entry / "__init__.py").exists():
            return ""
        hint = "; Flash packs `dataset`" if entry.name == "datasets" else ""
        return f"neither `dataset` nor a Python package{hint}"
    if entry.name in _PROJECT_FILES:
        return "Flash installs nothing from it: list requirements under environment.pip"
    if entry.suffix == ".py" or entry.suffix.lower() in _DATA_SUFFIXES:
        return ""
    return "not a kind of file that environments have at their root"


def _never(entry: Path) -> str:
    """Why something stays out wherever it lies."""
    if reason := never_named(entry.name):
        return reason
    if (entry / "pyvenv.cfg").exists():
        return "a virtual environment"
    return ""


def never_named(name: str) -> str:
    if name.startswith("."):
        return "hidden"
    if name == "__pycache__" or name.endswith((".pyc", ".pyo")):
        return "compiled Python"
    return ""


def _shown(entry: Path, root: Path) -> str:
    """Its name below the root as text, whatever bytes it has."""
    name = os.fsencode(entry.relative_to(root)).decode(errors="replace")
    return f"{name}/" if entry.is_dir() else name


def _walk(folder: Path, root: Path, files: dict[str, Path], left_out: list[LeftOut]) -> None:
    for entry in sorted(folder.iterdir()):
        name = entry.relative_to(root).as_posix()
        if reason := _never(entry):
            left_out.append(LeftOut(_shown(entry, root), reason))
        elif entry.is_dir():
            _refuse_link(entry, root)
            _walk(entry, root, files, left_out)
        else:
            _refuse_odd(entry, root)
            files[name] = entry


def _refuse_link(entry: Path, root: Path) -> None:
    if entry.is_symlink():
        raise EnvironmentFault(f"{_shown(entry, root)} is a link; put the real thing there, or remove it")


def _refuse_odd(entry: Path, root: Path) -> None:
    _refuse_link(entry, root)
    name = _shown(entry, root)
    if not stat.S_ISREG(entry.lstat().st_mode):
        raise EnvironmentFault(f"{name} is no plain file; remove it")
    if os.fsencode(entry.name) != entry.name.encode(errors="replace"):
        raise EnvironmentFault(f"{name} has a name that is not UTF-8; rename it")
    if is_secret_name(entry.name):
        raise EnvironmentFault(f"{name} is named like a secret; take it out and declare environment.secrets instead")


def require_python(entry: Path) -> None:
    try:
        with warnings.catch_warnings(action="ignore"):
            compile(entry.read_bytes(), ENTRY, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        where = f" line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        said = error.msg if isinstance(error, SyntaxError) else error
        raise EnvironmentFault(f"{ENTRY}{where} is no Python: {said}") from error


def is_secret_name(name: str) -> bool:
    return _SECRET_NAME.fullmatch(name) is not None
