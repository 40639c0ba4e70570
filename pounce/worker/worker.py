"""One worker: an event loop's listening sockets, connections, deadlines and draining."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import socket
import ssl
import time
from collections.abc import Sequence
from email.utils import formatdate
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote

from pounce.asgi.forwarded import TrustedProxies
from pounce.asgi.types import ASGI_VERSION, HTTP_SPEC_VERSION, ASGIApp
from pounce.config import ServerConfig
from pounce.errors import ProtocolError
from pounce.net.sockets import listen
from pounce.net.tls import tls_extension
from pounce.net.tls_transport import TLSTransport
from pounce.protocol.h1_head import HeadLimits, HeadParser
from pounce.protocol.h1_response import ResponseEncoder, encode_fields, tails
from pounce.sync_protocol import SyncApp
from pounce.worker import tasks
from pounce.worker.acceptor import AT_ONCE, Acceptor, Place, ProtocolFactory
from pounce.worker.connection import Connection
from pounce.worker.first_bytes import FirstBytes
from pounce.worker.h1_connection import H1Connection
from pounce.worker.h2_connection import H2Connection
from pounce.worker.h2_settings import make_engines
from pounce.worker.meter import Meter
from pounce.worker.observer import Observer
from pounce.worker.request_cycle import BODY_HIGH_WATER, RequestCycle, format_client
from pounce.worker.stages import Stage
from pounce.worker.sync_requests import answer_sync
from pounce.worker.ws_settings import WebSocketSettings

if TYPE_CHECKING:
    from pounce.worker.h1_cycle import H1Cycle
    from pounce.worker.metrics_endpoint import MetricsEndpoint
    from pounce.worker.ws_stream import WebSocketStream

logger = logging.getLogger("pounce.error")

LOOK_EVERY: Final = 32
"""Connections from one look at how many come at once to the next."""

SERVER_NAME: Final = b"pounce"

HANDSHAKE_GRACE: Final = 2.0
"""Seconds that a TLS handshake may still take when the worker drains."""

HANDSHAKE_PACE: Final = 0.1
"""Seconds between two TLS connections that a gentle drain sends away. Each of their clients shakes
hands again, for the CPU time of some hundred requests."""

HANDSHAKE_SHARE: Final = 0.25
"""The part of the time for draining that this may take; for more connections it goes faster."""

CANCEL_GRACE: Final = 2.0
"""Seconds that cancelled requests get to come to an end when the drain deadline has passed."""


class Worker:
    """Serves one application on listening sockets in the running event loop.

    The attributes are what connections need for every request, ready for use: the request path
    looks nothing up in the configuration.

    Args:
        config: The resolved configuration.
        app: The ASGI application.
        state: The lifespan state, copied into each scope; None when there is no lifespan.
        sync_app: Asked first for plain requests.
        observer: Takes note of connections and requests; None when nobody wants to know.
        metrics: Answers requests for metrics before the application sees them.
        worker_id: Number of this worker in the pool.
    """

    def __init__(
        self,
        config: ServerConfig,
        app: ASGIApp,
        *,
        state: dict[str, Any] | None = None,
        sync_app: SyncApp | None = None,
        observer: Observer | None = None,
        metrics: MetricsEndpoint | None = None,
        worker_id: int = 0,
    ) -> None:
        self.config = config
        self.app = app
        self.state = state
        self.sync_app = sync_app
        self.observer = observer
        self.meter = observer if isinstance(observer, Meter) else None
        self.quick_meter = self.meter if self.meter is not None and self.meter.only_counts else None
        """The meter, where connections may count ordinary requests by themselves."""
        self.metrics = metrics
        self.metrics_path = None if metrics is None else metrics.path
        self.worker_id = worker_id
        self.loop = asyncio.get_running_loop()
        self.context = contextvars.copy_context()
        """The context variables with which every request begins."""

        self.root_path = config.root_path.rstrip("/")
        self.raw_root_path = quote(self.root_path, safe="/:@!$&'()*+,;=").encode()
        self.trusted_proxies = TrustedProxies(
            config.forwarded_allow_ips if config.proxy_headers else ""
        )
        """The peers whose X-Forwarded-* fields are believed."""
        self.parser = HeadParser(
            HeadLimits(
                request_line=config.limit_request_line,
                fields=config.limit_request_fields,
                head=config.limit_request_head,
            )
        )
        self.prepare_h1_head = ResponseEncoder().encode
        self.h2_engines = make_engines(config)
        """None where HTTP/2 is not served."""
        self.h2_ping_interval = config.http2_ping_interval
        self.h2_unread = max(1, min(BODY_HIGH_WATER, config.http2_stream_window // 2))
        """Bytes of unread request bodies from which on a client may have to wait for a window."""
        self.websockets = WebSocketSettings.of(config)
        """None where WebSockets are not served."""
        self._misses_websockets = config.ws == "auto"
        """Whether a client that asks for one is worth a word in the log."""
        self.asgi = {"version": ASGI_VERSION, "spec_version": HTTP_SPEC_VERSION}

        self._base_scope = self._make_base_scope()

        self.limit_request_body = config.limit_request_body
        self.limit_concurrency = config.limit_concurrency or inf
        self.limit_keep_alive_requests: float = config.limit_keep_alive_requests or inf
        self.timeout_first_byte = config.timeout_first_byte
        self.timeout_request_head = config.timeout_request_head
        self.timeout_request_body = config.timeout_request_body
        self.seconds_per_body_byte = (
            1 / config.limit_request_body_rate if config.limit_request_body_rate else 0.0
        )
        self.timeout_keep_alive = config.timeout_keep_alive
        self.timeout_write = config.timeout_write

        self.connections: set[Connection] = set()
        self.handshakes: set[TLSTransport | FirstBytes] = set()
        """Connections of which it is not clear yet what they speak."""
        self.tasks: set[asyncio.Task[None]] = set()
        self.in_flight = 0
        self.draining = False
        self.abandoning = False
        """The time to drain is over: what has not finished is cancelled."""
        self._accepted = 0
        """Connections so far."""
        self.closes_idle = False
        """Whether a connection without a request in progress has no future."""
        self._past_requests = 0
        """Requests on connections that are gone."""
        self.sending = Stage(self.loop, TLSTransport.flush)
        """TLS connections with something to encrypt and send."""
        self.flushing = Stage(self.loop, H2Connection.flush_later, self.sending)
        """HTTP/2 connections whose engine has something to send."""
        self.corked: Stage[H1Cycle | WebSocketStream] = Stage(self.loop, _uncork, self.flushing)
        """Responses and WebSockets with parts that leave together."""
        self.starting = Stage(self.loop, tasks.start, self.corked)
        """Requests whose application is to be called."""
        self.start = self.starting.add if tasks.EAGER else tasks.start
        """Runs the application for a request."""
        self.send_later = self.sending.add
        self._acceptor = Acceptor(config.backlog, lambda: self._accepted)
        self._room = inf
        """Connections from which on there may be no descriptors left."""
        self._idle = asyncio.Event()
        self._tick_handle: asyncio.TimerHandle | None = None
        self._tick_period = self._choose_tick_period()

        self.clock = 0.0
        """The loop's time, rounded up to the next tick: a deadline never comes early."""
        self._extra_fields = encode_fields(
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in config.headers
        )
        self._tick_due = inf
        self._date_second = 0
        self.tails: tuple[bytes, ...] = ()
        self._tick()

    # Serving

    async def listen(
        self, sockets: Sequence[socket.socket], ssl_context: ssl.SSLContext | None
    ) -> None:
        """Starts to accept on bound sockets, which stay the caller's to close.

        Raises:
            BindError: Another program took the address meanwhile.
        """
        listen(sockets, self.config.backlog)
        places: list[Place] = []
        for sock in sockets:
            server = _fixed_address(sock)
            factory: ProtocolFactory
            if ssl_context is None and self.config.http2_cleartext:
                factory = partial(FirstBytes, self, partial(self._protocol_of, server))
            elif ssl_context is None:
                factory = partial(H1Connection, self, server)
            else:
                factory = partial(
                    TLSTransport, ssl_context, partial(self._protocol_for, server), self
                )
            # A TLS handshake takes as long as many requests, which had better not come in heaps.
            at_once = 1 if ssl_context is not None else AT_ONCE // self._takers_of(sock)
            places.append(Place(sock, factory, max(1, at_once)))
        await self._acceptor.start(places)
        self._look_for_room()

    def _takers_of(self, sock: socket.socket) -> int:
        """How many workers accept on a socket: all are woken for each connection."""
        reuse_port = getattr(socket, "SO_REUSEPORT", None)  # not on Windows
        is_own = reuse_port is not None and sock.getsockopt(socket.SOL_SOCKET, reuse_port)
        return 1 if is_own else self.config.resolve_workers()

    def _protocol_for(
        self, server: tuple[str, int | None] | None, alpn: str | None
    ) -> asyncio.Protocol:
        """The protocol that the client and the server agreed on (RFC 7301)."""
        if alpn == "h2" and self.h2_engines is not None:
            return H2Connection(self, self.h2_engines.connect(), server, is_tls=True)
        return H1Connection(self, server, is_tls=True)

    def _protocol_of(self, server: tuple[str, int | None] | None, is_h2: bool) -> asyncio.Protocol:
        """The protocol that a client without TLS began with."""
        if is_h2 and self.h2_engines is not None:
            return H2Connection(self, self.h2_engines.connect(), server)
        return H1Connection(self, server)

    def handshake_begun(self, channel: TLSTransport | FirstBytes) -> None:
        channel.deadline = self.clock + self.config.timeout_tls_handshake
        self.handshakes.add(channel)
        if len(self.handshakes) + len(self.connections) >= self._room:
            self._look_for_room()

    def handshake_ended(self, channel: TLSTransport | FirstBytes) -> None:
        self.handshakes.discard(channel)
        if not self.handshakes:
            self._idle.set()

    async def stop_accepting(self) -> None:
        """Takes what waits to be accepted, and no more."""
        await self._acceptor.stop()

    async def drain(self, seconds: float, *, gentle: bool = False) -> None:
        """Lets what is in flight finish, and closes what is left.

        Args:
            seconds: How long until requests that do not finish are cancelled.
            gentle: An idle connection may send one more request, until its ordinary deadline.
                The client of a connection that is closed at once may be sending just then.
        """
        deadline = self.loop.time() + seconds
        self.draining = True
        self.closes_idle = not gentle
        if gentle:
            await self._send_away_over_tls(seconds * HANDSHAKE_SHARE)
            gentle = not self.closes_idle
        self.limit_keep_alive_requests = 0  # every further response closes its connection
        for connection in list(self.connections):
            connection.shut_down(gentle=gentle)
        for channel in self.handshakes:
            channel.deadline = min(channel.deadline, self.clock + HANDSHAKE_GRACE)
        try:
            await asyncio.wait_for(self._until_idle(), deadline - self.loop.time())
        except TimeoutError:
            logger.warning(
                "%d requests on %d connections did not finish within %g s",
                self.in_flight,
                len(self.connections),
                seconds,
            )
        await self._abandon()
        if self._tick_handle is not None:
            self._tick_handle.cancel()

    async def _send_away_over_tls(self, seconds: float) -> None:
        """Tells the TLS connections one after another that their next response is the last.

        Args:
            seconds: How long this may take.
        """
        connections = [each for each in self.connections if each.is_tls]
        pace = min(HANDSHAKE_PACE, seconds / max(len(connections), 1))
        due = self.loop.time()
        for connection in connections:
            if connection.lost:
                continue
            due += pace
            connection.shut_down(gentle=True)
            if (left := due - self.loop.time()) > 0:
                await asyncio.sleep(left)
            if self.closes_idle:
                return

    async def abandon(self) -> None:
        """Stops to accept, cancels what is in flight and closes what is left, at any moment."""
        self.draining = self.closes_idle = True
        self._acceptor.abandon()
        await self._abandon()
        if self._tick_handle is not None:
            self._tick_handle.cancel()

    def close_idle_connections(self) -> None:
        """Ends the patience of a gentle drain."""
        self.closes_idle = True
        for connection in list(self.connections):
            connection.shut_down()

    def requests_so_far(self) -> int:
        """Requests that have been read since the worker began."""
        return self._past_requests + sum(each.requests for each in self.connections)

    async def _until_idle(self) -> None:
        while self.connections or self.handshakes or self.tasks:
            self._idle.clear()
            if self.connections or self.handshakes:
                await self._idle.wait()
            else:
                # Work that applications do after their response.
                await asyncio.wait(self.tasks)

    async def _abandon(self) -> None:
        self.abandoning = True
        self.starting.run()
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            # What is cancelled before it has begun to answer is answered with an error.
            await asyncio.wait(tasks, timeout=CANCEL_GRACE)
        for channel in list(self.handshakes):
            channel.abort()
        for connection in list(self.connections):
            connection.close_reason = connection.close_reason or "error"
            connection.abort()
        while self.connections or self.handshakes:
            self._idle.clear()
            await self._idle.wait()

    # Called by connections

    def admit(self, connection: Connection) -> None:
        """Takes note of a new connection and prepares what its scopes have in common."""
        connection.id = self._accepted = self._accepted + 1
        if not connection.id % LOOK_EVERY:
            self._acceptor.look_at_a_turn()
        get_extra_info = connection.transport.get_extra_info
        client = connection.client = _address(get_extra_info("peername"))
        server = connection.server
        if server is None:
            server = connection.server = _server_address(get_extra_info("sockname"))
        scope = connection.base_scope = self._base_scope.copy()
        scope["client"] = client
        scope["server"] = server
        if connection.is_tls:
            scope["scheme"] = "https"
            extension = tls_extension(get_extra_info("ssl_object"))
            scope["extensions"] = {**scope["extensions"], "tls": extension}
        self.connections.add(connection)
        if len(self.connections) >= self._room:
            self._look_for_room()
        if self.observer is not None:
            self.observer.connection_opened(connection)
        if self.draining:
            connection.shut_down(gentle=not self.closes_idle)

    def dismiss(self, connection: Connection, exc: Exception | None) -> None:
        """Takes note of the end of a connection."""
        self.connections.discard(connection)
        self._past_requests += connection.requests
        if self.observer is not None:
            self.observer.connection_closed(connection, exc)
        if not self.connections:
            self._idle.set()

    def request_refused(
        self, connection: Connection, exc: ProtocolError, cycle: RequestCycle | None, size: int
    ) -> None:
        """Takes note of an error answer with `size` bytes of content."""
        logger.info(
            "refused a request from %s: %d %s", format_client(connection.client), exc.status, exc
        )
        if self.observer is not None:
            self.observer.request_refused(connection, exc, cycle, size)

    def websocket_missed(self, connection: Connection) -> None:
        """Says, once, how a client could have had its WebSocket."""
        if self._misses_websockets:
            self._misses_websockets = False
            logger.warning(
                "%s asked for a WebSocket, which needs more packages: pip install 'pounce[ws]'",
                format_client(connection.client),
            )

    def timed_out(self, what: str) -> None:
        """Takes note of a missed deadline, by the name of its option."""
        if self.meter is not None:
            self.meter.timed_out(what)

    def intercept(self, cycle: RequestCycle, body: bytes) -> bool:
        """Whether somebody answers instead of the application; `body` is what has arrived of it."""
        if cycle.line.path == self.metrics_path:
            assert self.metrics is not None
            self.in_flight += 1
            # The peer's own address: X-Forwarded-For may say anything.
            tasks.start(cycle, self.metrics.application(cycle.connection.client))
            return True
        if self.sync_app is None or not cycle.body_complete:
            return False
        return answer_sync(self.sync_app, cycle, body)

    def _make_base_scope(self) -> dict[str, Any]:
        """What all scopes have in common, with room for the rest."""
        extensions: dict[str, dict[str, Any]] = {
            "http.response.trailers": {},
            "http.response.pathsend": {},
            "http.response.zerocopysend": {},
            "http.response.early_hint": {},
        }
        if self.config.debug:
            extensions["http.response.debug"] = {}
        return {
            "type": "http",
            "asgi": self.asgi,
            "http_version": "1.1",
            "server": None,
            "client": None,
            "scheme": "http",
            "root_path": self.root_path,
            "extensions": extensions,
        }

    def _look_for_room(self) -> None:
        present = len(self.connections) + len(self.handshakes)
        self._room = present + self._acceptor.look_for_room(present)

    # Time

    def _choose_tick_period(self) -> float:
        config = self.config
        shortest = min(
            config.timeout_first_byte,
            config.timeout_request_head,
            config.timeout_request_body,
            config.timeout_keep_alive,
            config.timeout_write,
            *(self.websockets.periods() if self.websockets is not None else ()),
            *([self.h2_ping_interval] if self.h2_ping_interval else ()),
        )
        return min(1.0, max(0.02, shortest / 4))

    def _tick(self) -> None:
        """Renews the clock and the Date, and looks for passed deadlines."""
        now = self.loop.time()
        late = now - self._tick_due
        if late > self._tick_period:
            self._put_off(late)
        self.clock = now + self._tick_period
        second = int(time.time())
        if second != self._date_second:
            self._date_second = second
            config = self.config
            self.tails = tails(
                formatdate(second, usegmt=True).encode() if config.date_header else None,
                SERVER_NAME if config.server_header else None,
                self._extra_fields,
            )
            if self.h2_engines is not None:
                self.h2_engines.set_default_fields(
                    formatdate(second, usegmt=True).encode() if config.date_header else None,
                    SERVER_NAME if config.server_header else None,
                    [(n.encode("latin-1"), v.encode("latin-1")) for n, v in config.headers],
                )
        for connection in [
            c for c in self.connections if c.deadline <= now or c.write_deadline <= now
        ]:
            connection.expire(now)
        for channel in [c for c in self.handshakes if c.deadline <= now]:
            self.timed_out(channel.deadline_name)
            channel.expire()
        self._look_for_room()
        if self.observer is not None:
            self.observer.tick()
        seconds = self._until_next_tick()
        self._tick_due = now + seconds
        # Not in the context of a request, which would be kept for ever.
        self._tick_handle = self.loop.call_later(seconds, self._tick, context=self.context)

    def _put_off(self, seconds: float) -> None:
        """The application has blocked the loop for so long: what clients sent meanwhile was not
        read, so that time is not theirs."""
        for connection in self.connections:
            connection.put_off(seconds)
        for channel in self.handshakes:
            channel.deadline += seconds

    def _until_next_tick(self) -> float:
        """Seconds: the period, or less where the wall clock's second changes before, and with it
        the Date. A millisecond more, so that a timer that is early is not too early."""
        return min(self._tick_period, 1.001 - time.time() % 1.0)


def _uncork(sender: H1Cycle | WebSocketStream) -> None:
    sender.uncork()


def _address(peername: Any) -> tuple[str, int] | None:
    """An IP address and port; None for a Unix socket."""
    if not isinstance(peername, tuple):
        return None
    return cast(tuple[str, int], peername if len(peername) == 2 else peername[:2])


def _fixed_address(sock: socket.socket) -> tuple[str, int | None] | None:
    """The server address of all connections that a socket accepts; None where it differs."""
    address = _server_address(sock.getsockname())
    return None if address is None or address[0] in ("0.0.0.0", "::") else address


def _server_address(sockname: Any) -> tuple[str, int | None] | None:
    """The address a connection came in on; a path and None for a Unix socket (ASGI)."""
    if isinstance(sockname, tuple):
        return str(sockname[0]), int(sockname[1])
    return (sockname, None) if isinstance(sockname, str) and sockname else None
