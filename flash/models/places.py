"""Where a base model lies on this machine."""

from pathlib import Path

from flash.errors import NotFound
from flash.models.catalogue import InFolder, Shipped, card, is_path, pool_of
from flash.models.fetching import Progress, fetch


def folder(model: str, home: Path) -> Path:
    """The folder that transformers loads. Raises NotFound, saying how to get it, when it is not on this machine."""
    if is_path(model) or "/" not in model:
        source = card(model).source
        if isinstance(source, Shipped | InFolder):
            return source.folder
    place = home / "models" / pool_of(model)
    if not place.is_dir():
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
