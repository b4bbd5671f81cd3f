"""Where a base model lies on this machine."""

import os
from pathlib import Path

from flash.errors import NotFound, Refused
from flash.models.catalogue import InFolder, Shipped, card, is_path, pool_of
from flash.models.fetching import Progress, fetch, unfinished


def folder(model: str, home: Path) -> Path:
    """The folder that transformers loads. Raises NotFound, saying how to get it, when it is not on this machine."""
    if is_path(model) or "/" not in model:
        source = card(model).source
        if isinstance(source, Shipped | InFolder):
            return source.folder
    place = home / "models" / pool_of(model)
    try:
        is_here = place.is_dir()
    except PermissionError:
        raise NotFound(
            f"{place} may not be looked at by uid {os.getuid()}: whether {model} is there is not known"
        ) from None
    if not is_here:
        raise NotFound(f"{model} is not on this machine: `flash models pull {model}`")
    return place


def pull(model: str, home: Path, progress: Progress) -> Path:
    """Fetch a model of the catalogue, or any Hugging Face id, into `home` unless it is there; gives its folder.

    A pull that is killed leaves nothing that looks like a model. Raises FlashError saying why it could not be had.
    """
    try:
        return folder(model, home)
    except NotFound:
        return fetch(model, home / "models" / pool_of(model), progress)


def pulled(model: str, home: Path) -> Path:
    """Where a model lies that was pulled, or whose pull broke off. Raises Refused for one that is not pulled, and
    NotFound where it is not here.
    """
    if is_path(model) or "/" not in model:
        match card(model).source:
            case Shipped():
                raise Refused(f"{model} comes with Flash, and stays")
            case InFolder(place):
                raise Refused(f"{place} is a folder of your own, which Flash does not remove")
    place = home / "models" / pool_of(model)
    if not place.is_dir() and not unfinished(place).is_dir():
        raise NotFound(f"{model} is not on this machine: `flash models` shows which are")
    return place
