"""The master's own HTTP server, for those who watch over it.

It runs in the master's event loop, so that it answers while every worker is stuck. There is little
to read and little to say, so it is strict: few clients, small requests without content, deadlines
for everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import weakref
from collections.abc import Callable, Sequence
from email.utils import formatdate
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self

import h11

from pounce.metrics.interceptor import Answer, plain_answer
from pounce.net.sockets import close_sockets

logger = logging.getLogger("pounce.error")

MAX_CLIENTS: Final = 64
"""Beyond these, one that is idle gives way; where none is, the new one goes."""
MAX_HEAD: Final = 16 * 1024
"""Bytes of a request line and its fields."""
HEAD_TIMEOUT: Final = 10.0
"""Seconds for a request to arrive."""
IDLE_TIMEOUT: Final = 75.0
"""Seconds between two requests: Prometheus keeps its connection from scrape to scrape."""
WRITE_TIMEOUT: Final = 10.0
"""Seconds for a client to read an answer."""
LINGER_TIMEOUT: Final = 1.0
"""Seconds for a client to see why it was refused, before the connection is reset."""
CLOSE_GRACE: Final = 1.0
"""Seconds that `close` gives to answers that are under way."""
ACCEPT_PAUSE: Final = 1.0
"""Seconds without new clients when one cannot be accepted."""

_READ_SIZE: Final = 4096
_HAS_CONTENT: Final = "requests with content are not for this server"

Handler = Callable[[str, str, Sequence[tuple[bytes, bytes]]], Answer]
"""Method, target and fields, with names in lower case, to the response."""


class AdminServer:
    """Answers HTTP/1.1 requests on bound sockets.

    `start` and `close` are called in the loop that serves; a process that is forked off meanwhile
    closes its copies of the sockets by itself.

    Args:
        sockets: Bound ones. They are this server's from now on, and it closes them.
        handler: Makes the responses, in a moment, such as `AdminPages.answer`.
    """

    def __init__(self, sockets: Sequence[socket.socket], handler: Handler) -> None:
        self._sockets = list(sockets)
        self._handler = handler
        self._paused: asyncio.TimerHandle | None = None
        """Accepting goes on when it is due."""
        self._clients: dict[asyncio.Task[None], _Client] = {}
        _servers.add(self)

    def __repr__(self) -> str:
        return f"<AdminServer on {len(self._sockets)} sockets, {len(self._clients)} clients>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            OSError: Another program took the address meanwhile.
        """
        for sock in self._sockets:
            sock.setblocking(False)
            sock.listen(MAX_CLIENTS)
        self._resume()

    async def close(self) -> None:
        """Stop listening, and give answers that are under way a moment."""
        self._pause()
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        close_sockets(self._sockets)
        self._sockets.clear()
        for task, client in self._clients.items():
            if client.is_idle:
                task.cancel()
        tasks = self._clients.keys() - {asyncio.current_task()}
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=CLOSE_GRACE)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    def _pause(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)

    def _resume(self) -> None:
        self._paused = None
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.add_reader(sock, self._accept, sock)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            logger.error("a client of the admin server cannot be accepted: %s", error.strerror)
            self._pause()
            self._paused = asyncio.get_running_loop().call_later(ACCEPT_PAUSE, self._resume)
            return
        if len(self._clients) >= MAX_CLIENTS and not self._let_one_go():
            sock.close()
            return
        sock.setblocking(False)
        client = _Client(sock, self._handler)
        task = asyncio.get_running_loop().create_task(client.run())
        self._clients[task] = client
        task.add_done_callback(self._forget)

    def _let_one_go(self) -> bool:
        """Whether there was an idle client to let go; the one that was idle longest."""
        idle = [
            (client.idle_since, task)
            for task, client in self._clients.items()
            if client.is_idle and not task.cancelling()
        ]
        if not idle:
            return False
        min(idle, key=lambda each: each[0])[1].cancel()
        return True

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._clients.pop(task).sock.close()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a client of the admin server failed", exc_info=error)

    def _close_copies(self) -> None:
        for sock in (*self._sockets, *(client.sock for client in self._clients.values())):
            sock.close()


class _Client:
    """One connection."""

    def __init__(self, sock: socket.socket, handler: Handler) -> None:
        self.sock = sock
        self.is_idle = True
        """Whether it waits for a request of which nothing has come."""
        self.idle_since = 0.0
        self._handler = handler
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)

    async def run(self) -> None:
        """Answer requests, one after the other, until the client or its time is gone."""
        with contextlib.suppress(OSError, TimeoutError):
            patience = HEAD_TIMEOUT
            while await self._answer_next(patience):
                patience = IDLE_TIMEOUT

    async def _answer_next(self, patience: float) -> bool:
        """Whether a further request may follow."""
        self.idle_since = asyncio.get_running_loop().time()
        self.is_idle = not self._http.trailing_data[0]
        try:
            request = await self._read_request(patience)
            has_content = request is not None and self._has_content()
        except h11.RemoteProtocolError as error:
            refusal = plain_answer(error.error_status_hint, "malformed request")
            await self._refuse(refusal)
            return False
        if request is None:
            return False
        if has_content:
            await self._refuse(plain_answer(413, _HAS_CONTENT))
            return False
        await self._send(self._answer(request), is_head=request.method == b"HEAD")
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def _read_request(self, patience: float) -> h11.Request | None:
        """The head of the next request; None at the end of the connection."""
        async with asyncio.timeout(HEAD_TIMEOUT if not self.is_idle else patience) as deadline:
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    return event
                if event is not h11.NEED_DATA:
                    return None
                data = await asyncio.get_running_loop().sock_recv(self.sock, _READ_SIZE)
                if self.is_idle and data:
                    self.is_idle = False
                    deadline.reschedule(asyncio.get_running_loop().time() + HEAD_TIMEOUT)
                self._http.receive_data(data)

    def _has_content(self) -> bool:
        """Whether anything follows the head of the request."""
        return not isinstance(self._http.next_event(), h11.EndOfMessage)

    def _answer(self, request: h11.Request) -> Answer:
        try:
            return self._handler(
                request.method.decode(), request.target.decode(), list(request.headers)
            )
        except Exception:
            logger.exception("the admin server failed to answer")
            return plain_answer(500, "internal error, see the log of the server")

    async def _send(self, answer: Answer, *, is_head: bool = False) -> None:
        date = formatdate(usegmt=True).encode()
        fields = [*answer.fields, (b"date", date)]
        parts = [
            self._http.send(
                h11.Response(
                    status_code=answer.status,
                    headers=fields,
                    reason=HTTPStatus(answer.status).phrase.encode(),
                )
            ),
            b"" if is_head else self._http.send(h11.Data(data=answer.content)),
            self._http.send(h11.EndOfMessage()),
        ]
        async with asyncio.timeout(WRITE_TIMEOUT):
            data = b"".join(part for part in parts if part)
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def _refuse(self, answer: Answer) -> None:
        """The last answer of the connection."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            closing = answer._replace(fields=(*answer.fields, (b"connection", b"close")))
            await self._send(closing)
        # A socket closed with unread data is reset, and the reset may overtake the answer.
        self.sock.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(LINGER_TIMEOUT):
            while await asyncio.get_running_loop().sock_recv(self.sock, _READ_SIZE):
                pass


_servers: Final[weakref.WeakSet[AdminServer]] = weakref.WeakSet()


def _close_copies() -> None:
    for server in list(_servers):
        server._close_copies()


# A worker that kept the sockets open would let clients wait for a master that is gone.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)
