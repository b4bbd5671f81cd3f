"""The bus of one process: the same facts, orders and redeliveries as JetStream, without a server."""

from flash.bus.core import RETRY_S, StreamBus
from flash.bus.memory.clock import Clock, HandMovedClock, RealClock
from flash.bus.memory.stream import MemoryStream
from flash.bus.memory.switchboard import MemorySwitchboard
from flash.bus.wire import Letters
from flash.contracts.access import org_of
from flash.store import Store
from flash.store.memory import MemoryStore

__all__ = ["Clock", "HandMovedClock", "MemoryBus", "MemoryStream", "RealClock"]


class MemoryBus(StreamBus):
    """One replica. Several on one `MemoryStream` (see `replica`) are what several processes are on one server."""

    def __init__(
        self,
        store: Store | None = None,
        *,
        stream: MemoryStream | None = None,
        name: str = "test:1",
        token: str = "",
        retry_s: float = RETRY_S,
    ) -> None:
        self.store = store or MemoryStore()
        self.shared = stream or MemoryStream()
        self._view = self.shared.view()
        replica = name.partition(":")[2] or name
        switchboard = MemorySwitchboard(self.shared.desks, self.shared.clock, replica=replica, token=token)
        super().__init__(
            self._view, switchboard, Letters(self.store), self.shared.records, org=org_of(token), retry_s=retry_s
        )

    def replica(self, name: str, token: str = "") -> "MemoryBus":
        """Another process on the same stream and store."""
        return MemoryBus(self.store, stream=self.shared, name=name, token=token, retry_s=self._retry_s)

    async def kill(self) -> None:
        """What SIGKILL does: nothing is handed back, and what was held comes again after the acknowledgement wait."""
        self.freeze()
        await self.close(grace_s=0.0)

    def freeze(self) -> None:
        """What SIGSTOP does to the messages held: they go to others after the acknowledgement wait. We work on."""
        self._view.freeze()
