"""Says of every message we hold that it is in progress, from a thread of its own.

A handler that blocks the event loop (a model's forward pass, a tokenizer) must not lose its messages, so neither the
loop nor its connection may be needed. The thread still needs the interpreter for a moment now and then: a call that
holds it longer than the acknowledgement wait lets the messages go to others, who are then refused by what stands.
A process that is stopped (SIGSTOP) falls silent, and shall.
"""

import asyncio
import contextlib
import threading

from nats.aio.client import Client

from flash.bus.jetstream.connection import options

IN_PROGRESS = b"+WPI"


class Keeper:
    """Starts its thread with the first message held."""

    def __init__(self, nats_url: str, name: str, *, every_s: float) -> None:
        self._nats_url = nats_url
        self._name = name
        self._every_s = every_s
        self._held: set[str] = set()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def hold(self, ack_subject: str) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
            self._thread.start()
        self._held.add(ack_subject)

    def release(self, ack_subject: str) -> None:
        self._held.discard(ack_subject)

    async def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        asyncio.run(self._keep())

    async def _keep(self) -> None:
        client = Client()
        opening = asyncio.create_task(
            client.connect(self._nats_url, error_cb=_ignore, **options(f"{self._name} keeper"))
        )
        before: set[str] = set()
        while not await asyncio.to_thread(self._stop.wait, self._every_s):
            now = set(self._held)
            # What came since the last round needs nothing yet, and most of it will be done by the next.
            for ack_subject in now & before if opening.done() else ():
                with contextlib.suppress(Exception):  # the buffer is full or the server away: the next round
                    await client.publish(ack_subject, IN_PROGRESS)
            before = now
        opening.cancel()
        await client.close()


async def _ignore(_: Exception) -> None:
    return None
