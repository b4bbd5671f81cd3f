"""Finding the stack to talk to, and on whose behalf."""

import os
from collections.abc import Callable, Mapping

from flash.bus import Bus
from flash.contracts.access import is_token
from flash.errors import BusError, ConfigError

URL_VARIABLE = "FLASH_URL"
"""Names the bus of a stack elsewhere, and wins over the one on this machine."""
TOKEN_VARIABLE = "FLASH_TOKEN"
ALIAS = "FREESOLO_API_KEY"
"""Means the same where it holds a token of ours; a key of the original product is left alone."""

CONNECT_S = 5.0
"""How long the server may take to answer."""


def token_of(environment: Mapping[str, str], token: str = "") -> str:
    """The token to ask with: that of the environment, else the given one, which goes to no other stack than its own.

    Raises ConfigError, which does not show it, for what is none.
    """
    if own := environment.get(TOKEN_VARIABLE):
        if not is_token(own):
            raise ConfigError(f"{TOKEN_VARIABLE} holds no token: one reads flash_ORG_ID_SECRET, as it was printed")
        return own
    if is_token(alias := environment.get(ALIAS, "")):
        return alias
    return "" if environment.get(URL_VARIABLE) else token


async def connect(
    local: Callable[[], str | None] = lambda: None,
    environment: Mapping[str, str] = os.environ,
    *,
    token: str = "",
    name: str = "client",
) -> Bus:
    """The bus of the stack that FLASH_URL names, else of the one that `local` finds; asked with `token_of` token.

    Raises BusError, saying how to start one, where there is none.
    """
    token = token_of(environment, token)
    url = environment.get(URL_VARIABLE) or local()
    if url is None:
        raise BusError(f"no stack is running here: start one with `flash up`, or name one in {URL_VARIABLE}")
    from flash.bus.jetstream import connect as connect_jetstream
    from flash.store.memory import MemoryStore

    # Requests and replies fit into messages: what a client asks for never goes through the store.
    return await connect_jetstream(url, MemoryStore(), name=name, token=token, timeout_s=CONNECT_S, asks_only=True)
