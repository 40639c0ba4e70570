"""The application's metrics in a worker, from before it is imported to the worker's end."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from prometheus_client import REGISTRY

from pounce.metrics.client.collector import ClientCollector
from pounce.metrics.client.patches import Patches, is_left_to_the_user
from pounce.metrics.client.reader import StoreReader
from pounce.metrics.client.recorder import Recorder
from pounce.metrics.client.store import ClientStore


class ClientMetrics:
    """What the application counts by `prometheus_client` in this process goes into the store.

    There is one in a process, also where it runs several workers in threads.

    Args:
        base: The name of the arena.
        place: What the owner has assigned to this worker.
        is_forked: Whether the application was loaded before this process was forked.

    Raises:
        SharedMemoryError: There is no such store.
    """

    def __init__(self, base: str, place: int, *, is_forked: bool = False) -> None:
        self._store = ClientStore.attach(base)
        self._reader = StoreReader(self._store)
        self._recorder = Recorder(self._store.start(place))
        self._patches = Patches(self._recorder, self._reader)
        self._patches.apply()
        self._patches.move_metrics(is_forked=is_forked)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def collector(self) -> ClientCollector:
        """What a scrape that this process answers gets."""
        return ClientCollector(self._reader, REGISTRY)

    def close(self) -> None:
        """Leave `prometheus_client` as it was. What was counted stays in the store; the metrics
        go on in this process alone. A worker that just ends need not call this."""
        self._patches.remove()
        self._recorder.close()
        self._reader.close()
        self._store.close()


def install(base: str, place: int, *, is_forked: bool = False) -> ClientMetrics | None:
    """Have the application's metrics count in the store; called before it is imported.

    None: the environment names a directory for the multiprocess mode of `prometheus_client`,
    which then is left alone.
    """
    if is_left_to_the_user():
        return None
    return ClientMetrics(base, place, is_forked=is_forked)
