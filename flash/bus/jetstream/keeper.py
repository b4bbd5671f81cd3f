"""Says of every message we hold that it is in progress, from a thread of its own.

A handler that blocks the event loop (a model's forward pass, a tokenizer) must not lose its messages, so neither the
loop nor its connection may be needed. The thread still needs the interpreter for a moment now and then: a call that
holds it longer than the acknowledgement wait lets the messages go to others, who are then refused by what stands.
A process that is stopped (SIGSTOP) falls silent, and shall.
"""

import asyncio
import contextlib
import threading
import time

from nats.aio.client import Client

from flash.bus.jetstream.connection import options, stop_trying

IN_PROGRESS = b"+WPI"
ROUNDS = 4
"""How often within one acknowledgement wait."""


class Keeper:
    """Starts its thread with the first message held."""

    def __init__(self, nats_url: str, name: str, *, ack_wait_s: float) -> None:
        self._nats_url = nats_url
        self._name = name
        self._ack_wait_s = ack_wait_s
        self._kept_at: dict[str, float] = {}
        """By the subject of its acknowledgement, when the server last heard of it."""
        self._lock = threading.Lock()
        self._is_stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._thread: threading.Thread | None = None

    def hold(self, ack_subject: str) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
            self._thread.start()
        with self._lock:
            self._kept_at[ack_subject] = time.monotonic()

    def release(self, ack_subject: str) -> bool:
        """Whether it was ours all the time; if not, somebody else may hold it by now."""
        with self._lock:
            kept_at = self._kept_at.pop(ack_subject, None)
        return kept_at is not None and time.monotonic() - kept_at < self._ack_wait_s

    async def stop(self) -> None:
        self._is_stopping = True
        if self._thread is not None:
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # it has ended already
                    self._loop.call_soon_threadsafe(self._wake.set)
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        asyncio.run(self._keep())

    async def _keep(self) -> None:
        self._loop = asyncio.get_running_loop()
        every_s = self._ack_wait_s / ROUNDS
        client = Client()
        opening = asyncio.create_task(
            client.connect(
                self._nats_url, error_cb=_ignore, reconnected_cb=self._came_back, **options(f"{self._name} keeper")
            )
        )
        await asyncio.sleep(0)  # a client that has not begun to connect cannot be closed
        while not self._is_stopping:
            try:
                async with asyncio.timeout(every_s):
                    await self._wake.wait()
                least_age_s = 0.0
            except TimeoutError:
                least_age_s = every_s / 2  # what came only now will mostly be done by the next round
            self._wake.clear()
            if opening.done() and client.is_connected:
                await self._round(client, least_age_s)
        stop_trying(client)
        opening.cancel()
        await client.close()

    async def _came_back(self) -> None:
        self._wake.set()

    async def _round(self, client: Client, least_age_s: float) -> None:
        now = time.monotonic()
        with self._lock:
            # What was silent too long is no longer ours to keep: whoever has it by now must lose it when they die.
            due = [
                ack_subject
                for ack_subject, kept_at in self._kept_at.items()
                if least_age_s <= now - kept_at < self._ack_wait_s
            ]
            self._kept_at |= dict.fromkeys(due, now)
        for ack_subject in due:
            with contextlib.suppress(Exception):  # the connection is going down: the server hears it at the next round
                await client.publish(ack_subject, IN_PROGRESS)


async def _ignore(_: Exception) -> None:
    return None
