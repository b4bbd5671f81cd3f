"""`flash export`: a checkpoint as a folder that transformers and peft load elsewhere."""

import asyncio
import fcntl
import json
import os
import shutil
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli import modelcard, output
from cli.session import stack
from flash import client
from flash.bus import Bus
from flash.client import Reference
from flash.client.adapters import CONFIG, WEIGHTS, fetch_adapter
from flash.client.following import told_so_far
from flash.client.view import RunView
from flash.errors import ConfigError, FlashError, Refused
from flash.models import exporting, folder

TOKEN_VARIABLE = "HF_TOKEN"


async def export(options: Namespace) -> None:
    place = options.folder.expanduser().absolute()
    _check_place(place, options.force)
    if options.repository:
        _check_repository(options.repository)
    async with stack(options) as bus:
        reference = await client.resolve_reference(bus, options.reference)
        if not reference.policy.key:
            raise Refused(f"{options.reference} is a base model, with nothing trained: name a RUN or RUN/step-N")
        if reference.note:
            output.note(reference.note)
        run = await client.view(bus, reference.text.partition("/")[0])
        base = folder(reference.model, options.home)
        with _coming(place, options.force) as made:
            await fetch_adapter(bus, reference.policy, made, say=output.note)
            step_metrics = await _metrics(bus, run, reference)
            await asyncio.to_thread(_lay_out, made, base, reference, run, step_metrics, options.merged)
    url = await asyncio.to_thread(_push, place, options) if options.repository else ""
    if output.wants_json(options):
        told = {"reference": reference.text, "folder": str(place), "merged": options.merged}
        output.data(told | ({"repository": url} if url else {}))
        return
    output.line(str(place))
    if url:
        output.line(url)
    output.note(
        f"{reference.text} as {'a whole model' if options.merged else 'an adapter'}; README.md says how to load"
    )


def _lay_out(
    made: Path, base: Path, reference: Reference, run: RunView, step_metrics: dict[str, Any], merged: bool
) -> None:
    """The adapter is there: what goes with it, or comes of it."""
    hub_id = exporting.hub_id(reference.model)
    if merged:
        adapter = made / ".adapter"
        adapter.mkdir()
        for name in (CONFIG, WEIGHTS):
            (made / name).rename(adapter / name)
        output.note(f"merging it into {reference.model}")
        exporting.merge(base, adapter, made)
        shutil.rmtree(adapter)
    else:
        config = json.loads((made / CONFIG).read_text())
        config["base_model_name_or_path"] = hub_id or "."
        (made / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        if not hub_id:
            exporting.copy_base(base, made)
    exporting.copy_tokenizer(base, made)
    told = modelcard.Export(
        reference, run, step_metrics, merged=merged, hub_id=hub_id,
        license=exporting.license_of(reference.model, base),
    )  # fmt: skip
    (made / "README.md").write_text(modelcard.card(told), encoding="utf-8")


async def _metrics(bus: Bus, run: RunView, reference: Reference) -> dict[str, Any]:
    events = await told_so_far(bus, run.run_id, nouns=["step"], step=reference.policy.version)
    return next((e.body["metrics"] for e in events if e.event.startswith("step.finished.")), {})


def _check_place(place: Path, force: bool) -> None:
    if not place.exists():
        return
    if not force:
        raise Refused(f"{place} is there already: name another folder, or -f replaces an export")
    if place.is_dir() and not any(place.iterdir()):
        return
    readme = place / "README.md"
    if not readme.is_file() or modelcard.MARK not in readme.read_text(encoding="utf-8", errors="replace"):
        raise Refused(f"{place} holds no export, and is not replaced: name another folder")


@contextmanager
def _coming(place: Path, force: bool) -> Iterator[Path]:
    """A folder that takes its place at the good end of the block, and is gone at any other.

    What an export that was killed left beside it is gone too.
    """
    made = place.with_name(f".{place.name}.unfinished")
    try:
        made.mkdir(parents=True, exist_ok=True)
        held = os.open(made, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"{made.parent} cannot be written to ({error.strerror}): name another folder") from error
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"another export into {place} is under way: wait for it, or name another folder") from None
        try:
            _empty(made)
            yield made
            _check_place(place, force)
            if place.is_dir():
                shutil.rmtree(place)
            made.rename(place)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    finally:
        os.close(held)


def _empty(folder: Path) -> None:
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _check_repository(repository: str) -> None:
    owner, slash, name = repository.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise ConfigError(f"--repository is {repository!r}: it reads OWNER/NAME")
    if not os.environ.get(TOKEN_VARIABLE):
        raise ConfigError(f"{TOKEN_VARIABLE} is not set: a token that may write to {repository} is needed to push")


def _push(place: Path, options: Namespace) -> str:
    """Gives the address. The folder stays, whatever becomes of it."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise FlashError(
            "pushing needs huggingface_hub, which is not installed here: pip install huggingface_hub"
        ) from None
    api = HfApi(token=os.environ[TOKEN_VARIABLE])
    try:
        url = api.create_repo(options.repository, private=not options.public, exist_ok=True)
        api.upload_folder(
            folder_path=place, repo_id=options.repository, commit_message=f"{options.reference}, by Flash"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise FlashError(
            f"{options.repository} was not pushed: {reason}. The export itself is whole, in {place}"
        ) from error
    return str(url)
