"""Finding the stack to talk to."""

import os
from collections.abc import Callable, Mapping

from flash.bus import Bus
from flash.errors import BusError

URL_VARIABLE = "FLASH_URL"
"""Names the bus of a stack elsewhere, and wins over the one on this machine."""

CONNECT_S = 5.0
"""How long the server may take to answer."""


async def connect(
    local: Callable[[], str | None] = lambda: None, environment: Mapping[str, str] = os.environ, *, name: str = "client"
) -> Bus:
    """The bus of the stack that FLASH_URL names, else of the one that `local` finds on this machine.

    Raises BusError, saying how to start one, where there is none.
    """
    url = environment.get(URL_VARIABLE) or local()
    if url is None:
        raise BusError(f"no stack is running here: start one with `flash up`, or name one in {URL_VARIABLE}")
    from flash.bus.jetstream import connect as connect_jetstream
    from flash.store.memory import MemoryStore

    # Requests and replies fit into messages: what a client asks for never goes through the store.
    return await connect_jetstream(url, MemoryStore(), name=name, timeout_s=CONNECT_S)
