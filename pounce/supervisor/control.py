"""The control socket of the master: what `pounce ctl` talks to.

A Unix socket that only its owner and root may use. All of it runs in the master's event loop: a
task for each client, and nothing that blocks. What a client sends, or leaves out, harms nobody but
that client.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import weakref
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from pounce.errors import PounceError
from pounce.supervisor.control_messages import (
    MAX_REQUEST,
    ControlError,
    decode_request,
    encode_error,
    encode_result,
)
from pounce.supervisor.control_paths import (
    MAX_PATH,
    is_answered,
    make_private_directory,
    remove_stale_sockets,
    socket_name,
)
from pounce.supervisor.peer_credentials import peer_uid

logger = logging.getLogger("pounce.error")

Handler: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[Mapping[str, Any]]]
"""Carries out a command whose arguments have been checked; see `control_messages.COMMANDS`. A
`PounceError` is a refusal, and told to the client as it is."""

IDLE_TIMEOUT: Final = 10.0
"""Seconds for a client to send a command, and for it to read the answer."""
MAX_CLIENTS: Final = 64
"""Some may wait long for a reload, and must not keep others from asking for the status."""
CLOSE_GRACE: Final = 1.0
"""Seconds that `close` gives to answers that are under way."""

ACCEPT_PAUSE: Final = 1.0
"""Seconds without new clients when one cannot be accepted."""

AUTOMATIC: Final = "auto"
OFF: Final = "off"


async def start_control_server(
    setting: str, handler: Handler, *, take_over: bool = False
) -> ControlServer | None:
    """The running server that the option `--control-socket` asks for; None where there is none.

    Args:
        setting: A path; `auto`: a place where `pounce ctl` looks by itself; `off`.
        take_over: This is the next master of an upgrade: replace the socket of the old one.

    Raises:
        ControlError: The path cannot be used. Without one that is only logged: a machine with no
            place for a socket, such as a container with a read-only file system, can serve.
    """
    if setting == OFF:
        return None
    if setting != AUTOMATIC:
        server = ControlServer(setting, handler)
        await server.start(take_over=take_over)
        return server
    try:
        directory = make_private_directory()
        remove_stale_sockets(directory)
        server = ControlServer(directory / socket_name(os.getpid()), handler)
        await server.start(take_over=take_over)
    except ControlError as error:
        logger.warning("There is no control socket for pounce ctl: %s", error)
        return None
    return server


class ControlServer:
    """Answers commands on the Unix socket at `path` by `handler`.

    `start` and `close` are called in the loop that serves; a process that is forked off meanwhile
    closes its copies of the sockets by itself.
    """

    def __init__(self, path: str | os.PathLike[str], handler: Handler) -> None:
        # The working directory may change.
        self.path: Final = Path(os.path.abspath(path))
        self._handler = handler
        self._listener: socket.socket | None = None
        self._identity: tuple[int, ...] | None = None
        self._paused: asyncio.TimerHandle | None = None
        """Accepting goes on when it is due."""
        self._clients: dict[asyncio.Task[None], _Client] = {}
        _servers.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._listener is None else f"{len(self._clients)} clients"
        return f"<ControlServer {self.path} {state}>"

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

    async def start(self, *, take_over: bool = False) -> None:
        """Begin to listen.

        Args:
            take_over: Replace the socket of a master that still answers; else only one that is
                gone gives way.

        Raises:
            ControlError: The socket cannot be made, with a message of one line.
        """
        if len(os.fsencode(self.path)) > MAX_PATH - len(".new"):
            raise ControlError(f"{self.path} is too long for a Unix socket")
        if not take_over:
            self._check_that_the_place_is_free()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # It gets its name when it can answer: so what is named and does not answer is stale.
        unfinished = f"{self.path}.new"
        try:
            sock.setblocking(False)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)
            sock.bind(unfinished)
            os.chmod(unfinished, 0o600)
            sock.listen(MAX_CLIENTS)
            status = os.lstat(unfinished)
            os.rename(unfinished, self.path)
        except OSError as error:
            sock.close()
            with contextlib.suppress(OSError):
                os.unlink(unfinished)
            reason = error.strerror or error
            raise ControlError(f"control socket {self.path} cannot be made: {reason}") from error
        self._identity = _identity(status)
        self._listener = sock
        asyncio.get_running_loop().add_reader(sock, self._accept)

    async def close(self) -> None:
        """Stop listening, remove the socket, and give answers that are under way a moment."""
        if self._listener is not None:
            self._remove_socket()
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        for task, client in self._clients.items():
            if client.finish():
                task.cancel()
        # A handler may be the one that closes.
        tasks = self._clients.keys() - {asyncio.current_task()}
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=CLOSE_GRACE)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    def _check_that_the_place_is_free(self) -> None:
        try:
            if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
                raise ControlError(f"{self.path} exists and is not a socket")
            if is_answered(self.path):
                raise ControlError(f"a server answers on {self.path}")
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ControlError(
                f"control socket {self.path} cannot be made: {error.strerror or error}"
            ) from error

    def _remove_socket(self) -> None:
        """Unless another master has put its own in the place."""
        with contextlib.suppress(OSError):
            if _identity(os.lstat(self.path)) == self._identity:
                os.unlink(self.path)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # it has gone again
        except OSError as error:
            logger.error("The control socket cannot accept: %s", error.strerror or error)
            self._pause_accepting()
            return
        sock.setblocking(False)
        self._admit(sock)

    def _pause_accepting(self) -> None:
        """What keeps from accepting, such as a full table of descriptors, does not go by trying:
        the loop would spin."""
        loop, listener = asyncio.get_running_loop(), self._listener
        if listener is not None:
            loop.remove_reader(listener)
            self._paused = loop.call_later(ACCEPT_PAUSE, loop.add_reader, listener, self._accept)

    def _admit(self, sock: socket.socket) -> None:
        refusal = None
        try:
            uid = peer_uid(sock)
        except OSError:
            sock.close()
            return
        if uid not in (None, 0, os.geteuid()):
            logger.warning("User %d was refused at the control socket", uid)
            refusal = "only the user of the server and root may control it"
        elif len(self._clients) >= MAX_CLIENTS:
            refusal = "too many clients at once"
        if refusal is not None:
            with contextlib.suppress(OSError):
                sock.send(encode_error(refusal))
            sock.close()
            return
        client = _Client(sock, self._handler)
        task = asyncio.create_task(client.serve())
        self._clients[task] = client
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        client = self._clients.pop(task, None)
        if client is not None:
            client.sock.close()

    def _close_copies(self) -> None:
        """In a process that was forked off, which shares the loop's selector with the master: the
        sockets are closed behind the loop's back, and nothing is unregistered."""
        for client in self._clients.values():
            client.sock.close()
        if self._listener is not None:
            self._listener.close()
        self._clients.clear()
        self._listener = None


class _Client:
    """One connection."""

    def __init__(self, sock: socket.socket, handler: Handler) -> None:
        self.sock: Final = sock
        self._handler = handler
        self._received = bytearray()
        self._is_idle = True
        self._is_last = False

    def finish(self) -> bool:
        """Take no more commands; whether it is waiting for one, and can be cancelled."""
        self._is_last = True
        return self._is_idle

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError, TimeoutError):
            while not self._is_last:
                try:
                    line = await self._read_line()
                except ControlError as error:
                    self._say(error)
                    return
                if line is None:
                    return
                self._is_idle = False
                answer = await self._answer(line)
                async with asyncio.timeout(IDLE_TIMEOUT):
                    await loop.sock_sendall(self.sock, answer)
                self._is_idle = True

    async def _read_line(self) -> bytes | None:
        """The next line; None at the end of the connection.

        Raises:
            ControlError: There will be none.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(IDLE_TIMEOUT):
                while (end := self._received.find(b"\n") + 1) == 0:
                    if len(self._received) >= MAX_REQUEST:
                        break
                    part = await loop.sock_recv(self.sock, 4096)
                    if not part and self._received:
                        raise ControlError("the line does not end")
                    if not part:
                        return None
                    self._received += part
        except TimeoutError as error:
            raise ControlError(f"no command came within {IDLE_TIMEOUT:g} s") from error
        if not 0 < end <= MAX_REQUEST:
            raise ControlError(f"a command takes at most {MAX_REQUEST} bytes")
        line = bytes(self._received[:end])
        del self._received[:end]
        return line

    async def _answer(self, line: bytes) -> bytes:
        try:
            request = decode_request(line)
            logger.debug("Control command %s %s", request.command, request.arguments)
            return encode_result(await self._handler(request.command, request.arguments))
        except PounceError as error:
            return encode_error(str(error))
        except asyncio.CancelledError:
            self._say(ControlError("the server stops"))
            raise
        except Exception:
            logger.exception("A control command failed")
            return encode_error("internal error, see the log of the server")

    def _say(self, error: ControlError) -> None:
        """A last word, as far as it can be had without waiting."""
        with contextlib.suppress(OSError):
            self.sock.send(encode_error(str(error)))


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """Renaming a file and changing its mode leave this alone, another file has another one."""
    return status.st_dev, status.st_ino, status.st_mtime_ns


_servers: Final[weakref.WeakSet[ControlServer]] = weakref.WeakSet()


def _close_copies() -> None:
    for server in list(_servers):
        server._close_copies()


# A worker that kept the listening socket open would let clients wait for a master that is gone.
os.register_at_fork(after_in_child=_close_copies)
