"""What goes wrong in an author's code, as plain data with the author's own frames."""

import os
import traceback
from pathlib import Path
from typing import Any

from envsdk.loading import MissingParam

_OURS = str(Path(__file__).resolve().parent) + os.sep
_HOST = f"{os.sep}host{os.sep}child{os.sep}"
_PLUMBING = ("concurrent" + os.sep + "futures", "<frozen importlib", _HOST, "threading.py")
_MESSAGE_CHARS, _TRACEBACK_CHARS = 2_000, 8_000


class NoRewardError(ValueError):
    """The author's code gave something that is no reward."""


def fault(error: BaseException, folder: Path, *, kind: str = "raised") -> dict[str, Any]:
    """`kind`, `message` and `traceback` of an error; paths are relative to the environment's folder."""
    if isinstance(error, NoRewardError):
        return {"kind": "invalid-result", "message": _head(str(error)), "traceback": ""}
    if isinstance(error, MemoryError) and kind == "raised":
        kind = "limit-exceeded"
    return {
        "kind": kind,
        "message": _head(_relative(_sentence(error), folder)),
        "traceback": _tail(author_frames(error, folder)),
    }


def _head(text: str) -> str:
    """Cut between words: a secret is masked where it is whole, and half of one would not be known for what it is."""
    if len(text) <= _MESSAGE_CHARS:
        return text
    words = text[:_MESSAGE_CHARS].rsplit(maxsplit=1)
    return f"{words[0]} ..." if len(words) > 1 else f"... ({len(text)} characters in one word)"


def _tail(text: str) -> str:
    """Cut between lines, for the same reason."""
    return text if len(text) <= _TRACEBACK_CHARS else text[-_TRACEBACK_CHARS:].partition("\n")[2]


def author_frames(error: BaseException, folder: Path) -> str:
    """The traceback without the frames of whoever called the author's code."""
    try:
        told = traceback.TracebackException.from_exception(error)
        part: traceback.TracebackException | None = told
        while part is not None:
            part.stack = traceback.StackSummary.from_list(
                [frame for frame in part.stack if not _is_plumbing(frame.filename)]
            )
            part = part.__cause__ or part.__context__
        return _relative("".join(told.format()), folder)
    except Exception:  # an error whose text or source cannot be read
        return ""


def missing_need(error: BaseException, folder: Path) -> str:
    """What the package needs and is not there: a module, a variable, a param; empty for other errors."""
    if isinstance(error, MissingParam):
        return error.need
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        return "" if (folder / top).exists() or (folder / f"{top}.py").exists() else top
    if isinstance(error, KeyError) and error.args:
        frames = traceback.extract_tb(error.__traceback__)
        if frames and frames[-1].name == "__getitem__" and frames[-1].filename in ("<frozen os>", os.__file__):
            return str(error.args[0])
    return ""


def _relative(text: str, folder: Path) -> str:
    """The text with the environment's files as their author knows them."""
    for place in (folder, folder.resolve()):  # somewhere on the way to it there may be a link
        text = text.replace(f"{place}{os.sep}", "")
    return text


def _is_plumbing(filename: str) -> bool:
    return filename.startswith(_OURS) or any(part in filename for part in _PLUMBING)


def _sentence(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = "(its text cannot be read)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
