"""The base models: which there are, where each comes from, and how messages become its tokens.

Importing this loads no torch and no transformers; `flash.models.rendering` loads them when it is first used.
"""

from flash.models.catalogue import ModelCard, card, cards, nearest, pool_of
from flash.models.fetching import discard
from flash.models.places import folder, pull, pulled
from flash.models.serving import Serving, serving

__all__ = [
    "ModelCard", "Serving", "card", "cards", "discard", "folder", "nearest", "pool_of", "pull", "pulled", "serving",
]  # fmt: skip
