"""The bus over NATS JetStream. This package is the only place that imports nats."""

import contextlib

from flash.bus.core import RETRY_S, StreamBus
from flash.bus.jetstream.connection import Connection
from flash.bus.jetstream.keeper import Keeper
from flash.bus.jetstream.records import JetStreamRecords
from flash.bus.jetstream.stream import DEAD, JetStream
from flash.bus.jetstream.switchboard import NatsSwitchboard
from flash.bus.wire import Letters
from flash.contracts.access import org_of
from flash.contracts.base import STREAM
from flash.errors import BusError
from flash.records import Records
from flash.store import Store

__all__ = ["JetStreamBus", "connect"]

ACK_WAIT_S = 10.0
"""How long after the last sign of life a replica's messages go to others. Longer than any stall of a live process."""
DUPLICATE_WINDOW_S = 120.0


async def connect(
    nats_url: str,
    store: Store,
    name: str,
    *,
    token: str = "",
    ack_wait_s: float = ACK_WAIT_S,
    retry_s: float = RETRY_S,
    duplicate_window_s: float = DUPLICATE_WINDOW_S,
    timeout_s: float = 30.0,
    updates_streams: bool = True,
    asks_only: bool = False,
) -> "JetStreamBus":
    """The bus as one replica sees it; `name` is `service:replica`; `token` goes with whatever it asks.

    Makes the streams where there are none, unless the caller only asks, which is all that people may; with
    `updates_streams` takes those along that an older Flash has made. Raises BusError when no server answers at
    `nats_url` within `timeout_s`, or it refuses us.
    """
    connection = await Connection.open(nats_url, name, token=token, timeout_s=timeout_s)
    try:
        keeper = Keeper(nats_url, name, ack_wait_s=ack_wait_s)
        facts = JetStream(connection, STREAM, keeper, ack_wait_s=ack_wait_s)
        dead = JetStream(connection, DEAD, keeper)
        for stream, subjects in () if asks_only else ((facts, "flash.>"), (dead, "dead.>")):
            await stream.ensure([subjects], duplicate_window_s=duplicate_window_s, updates=updates_streams)
        return JetStreamBus(connection, facts, keeper, store, name=name, token=token, retry_s=retry_s)
    except BaseException:
        await connection.close()
        raise


class JetStreamBus(StreamBus):
    """One replica on a NATS server."""

    def __init__(
        self,
        connection: Connection,
        facts: JetStream,
        keeper: Keeper,
        store: Store,
        *,
        name: str,
        token: str,
        retry_s: float,
    ) -> None:
        switchboard = NatsSwitchboard(connection, replica=name.partition(":")[2] or name, token=token)
        super().__init__(facts, switchboard, Letters(store), self._open_records, org=org_of(token), retry_s=retry_s)
        self.connection = connection
        self.keeper = keeper

    async def close(self, grace_s: float = 5.0) -> None:
        await super().close(grace_s)
        await self.keeper.stop()
        with contextlib.suppress(BusError):
            await self.connection.round_trip(timeout_s=1.0)
        await self.connection.close()

    def _open_records(self, bucket: str) -> Records:
        return JetStreamRecords(JetStream(self.connection, f"KV_{bucket}", self.keeper), bucket)
