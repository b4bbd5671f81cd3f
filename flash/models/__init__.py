"""The base models: which there are, where each comes from, and how messages become its tokens.

Importing this loads no torch and no transformers; `flash.models.rendering` loads them when it is first used.
"""

from flash.models.catalogue import ModelCard, card, cards, nearest, pool_of
from flash.models.places import folder, pull, remove
from flash.models.serving import Serving, serving

__all__ = ["ModelCard", "Serving", "card", "cards", "folder", "nearest", "pool_of", "pull", "remove", "serving"]
