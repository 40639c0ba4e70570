"""Clients that ask all the time, on new connections and on kept ones, and note what fails."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

from tests.integration.endpoint import Connection, Endpoint, get
from tests.waiting import wait_until

PACE = 0.005
"""Seconds between two requests of a client: the server is to be asked, not to be measured."""


class SteadyLoad:
    """Begins with the block and ends with it.

    Args:
        endpoint: The server.
        kept: Clients that keep their connections.
        new: Clients that use each connection once.
    """

    def __init__(self, endpoint: Endpoint, kept: int = 3, new: int = 3) -> None:
        self._endpoint = endpoint
        self._is_over = threading.Event()
        self._threads = [
            *(threading.Thread(target=self._ask_on_kept_connections) for _ in range(kept)),
            *(threading.Thread(target=self._ask_on_new_connections) for _ in range(new)),
        ]
        self.answers: Counter[str] = Counter()
        """Bodies of responses."""
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        if error is None:
            assert not self.failures, f"{len(self.failures)} failed: {self.failures[:5]}"
            assert self.answers

    def wait_for_more(self, number: int = 50) -> None:
        """Until so many more requests are answered."""
        enough = self.answers.total() + number
        wait_until(lambda: self.answers.total() >= enough, f"{number} more are answered")

    def _ask_on_new_connections(self) -> None:
        while not self._is_over.is_set():
            try:
                with self._endpoint.connect() as connection:
                    self._ask(connection, "Connection: close")
            except Exception as error:
                self.failures.append(f"new: {error!r}")
            time.sleep(PACE)

    def _ask_on_kept_connections(self) -> None:
        while not self._is_over.is_set():
            try:
                with self._endpoint.connect() as connection:
                    while not self._is_over.is_set() and not self._ask(connection):
                        time.sleep(PACE)
            except Exception as error:
                self.failures.append(f"kept: {error!r}")

    def _ask(self, connection: Connection, *fields: str) -> bool:
        """Whether that was the last response on the connection."""
        response = connection.ask(get("/", *fields))
        assert response.status == 200, response
        self.answers[response.body.decode()] += 1
        return response.closes
