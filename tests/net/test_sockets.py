from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pounce.addresses import TCPAddress
from pounce.config import ServerConfig
from pounce.errors import BindError
from pounce.net import sockets as module
from pounce.net.sockets import bind, bind_address, bound_addr, close_sockets, listen
from tests.ports import quiet_port

Bind = Callable[..., list[socket.socket]]


@pytest.fixture
def bound() -> Iterator[Bind]:
    """`bind`, with everything it bound closed at the end."""
    everything: list[socket.socket] = []

    def make(**options: Any) -> list[socket.socket]:
        made = bind(ServerConfig(**options))
        everything.extend(made)
        return made

    yield make
    close_sockets(everything)


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def resolving_to(*hosts: str) -> Callable[..., list[Any]]:
    real = socket.getaddrinfo

    def getaddrinfo(host: object, port: int, **options: Any) -> list[Any]:
        return [found for name in hosts for found in real(name, port, **options)]

    return getaddrinfo


def answers(sock: socket.socket) -> bool:
    """Whether a connection made to the address of `sock` arrives at `sock`."""
    with socket.socket(sock.family) as client:
        client.settimeout(5)
        client.connect(sock.getsockname())
        sock.settimeout(5)
        accepted, _ = sock.accept()
        accepted.close()
    return True


# TCP


def test_port_zero_is_given_a_port(bound: Bind) -> None:
    [sock] = bound(host="127.0.0.1", port=0)
    host, port = bound_addr(sock)
    assert host == "127.0.0.1"
    assert port > 0


def test_a_bound_socket_is_non_blocking_private_and_does_not_listen_yet(bound: Bind) -> None:
    [sock] = bound(port=0)
    assert sock.getblocking() is False
    assert sock.get_inheritable() is False
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(sock.getsockname())
    listen([sock], 8)
    assert answers(sock)


def test_a_port_in_use_is_named(bound: Bind) -> None:
    [first] = bound(port=0)
    listen([first], 1)
    port = bound_addr(first)[1]
    with pytest.raises(BindError, match=rf"^port {port} on 127\.0\.0\.1 is in use$"):
        bound(port=port)


def test_two_programs_that_bound_one_port_learn_of_it_when_they_listen(bound: Bind) -> None:
    [first] = bound(port=0)
    port = bound_addr(first)[1]
    [second] = bound(port=port)
    listen([first], 1)
    with pytest.raises(BindError, match=rf"^port {port} on 127\.0\.0\.1 is in use$"):
        listen([second], 1)


def test_a_port_is_free_again_as_soon_as_its_server_is_gone(bound: Bind) -> None:
    port = quiet_port()
    [first] = bound(port=port)
    listen([first], 1)
    with socket.create_connection(("127.0.0.1", port)):
        first.settimeout(5)
        accepted, _ = first.accept()
        accepted.close()  # the side that closes first keeps the address for a while
    close_sockets([first])
    [second] = bound(port=port)
    assert bound_addr(second) == ("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("no-such-host.invalid", r"^host 'no-such-host\.invalid' is unknown: "),
        ("a" * 70 + ".example", r"^host 'a+\.example' is (not a valid host name|unknown: .*)$"),
        ("192.0.2.1", r"^192\.0\.2\.1 is not an address of this machine$"),
    ],
)
def test_a_host_that_cannot_be_bound_is_named(bound: Bind, host: str, reason: str) -> None:
    with pytest.raises(BindError, match=reason) as caught:
        bound(host=host, port=0)
    assert "\n" not in str(caught.value)


def test_a_reserved_port_asks_for_privilege(bound: Bind, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unprivileged(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(module.socket, "socket", Unprivileged)
    with pytest.raises(BindError, match=r"^port 80 on 127\.0\.0\.1 needs a privilege"):
        bound(port=80)


@needs_ipv6
def test_a_name_with_two_addresses_is_bound_on_both_with_one_port(
    bound: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to("127.0.0.1", "::1"))
    v4, v6 = bound(host="localhost", port=0)
    assert (v4.family, v6.family) == (socket.AF_INET, socket.AF_INET6)
    assert bound_addr(v4)[1] == bound_addr(v6)[1]
    assert bound_addr(v6)[0] == "::1"
    listen([v4, v6], 4)
    assert answers(v4)
    assert answers(v6)


@needs_ipv6
def test_another_port_is_drawn_when_the_second_address_has_it_taken(
    bound: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to("127.0.0.1", "::1"))
    taken: list[socket.socket] = []

    class TakesFirstPort(socket.socket):
        """The first time, puts a stranger on the port before the second address gets it."""

        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET6 and not taken:
                stranger = socket.create_server(("::1", address[1]), family=socket.AF_INET6)
                taken.append(stranger)
            super().bind(address)

    with monkeypatch.context() as patch:
        patch.setattr(module.socket, "socket", TakesFirstPort)
        patch.setattr(socket, "create_server", _plain_server)
        v4, v6 = bound(host="localhost", port=0)
    stranger_port = taken[0].getsockname()[1]
    taken[0].close()
    assert bound_addr(v4)[1] == bound_addr(v6)[1] != stranger_port


def _plain_server(address: tuple[str, int], family: int) -> socket.socket:
    import _socket

    raw = _socket.socket(family, socket.SOCK_STREAM)
    raw.bind(address)
    raw.listen(1)
    return socket.socket(fileno=raw.detach())


@needs_ipv6
@pytest.mark.parametrize("first", ["0.0.0.0", "::"])
def test_the_wildcards_of_both_families_share_a_port(bound: Bind, first: str) -> None:
    second = "::" if first == "0.0.0.0" else "0.0.0.0"
    port = quiet_port()
    [one] = bound(host=first, port=port)
    listen([one], 1)
    [other] = bound(host=second, port=port)
    listen([other], 1)
    assert one.family != other.family


@needs_ipv6
def test_the_empty_host_is_every_address() -> None:
    made = bind_address(TCPAddress("", 0))
    families = {sock.family for sock in made}
    ports = {bound_addr(sock)[1] for sock in made}
    close_sockets(made)
    assert families == {socket.AF_INET, socket.AF_INET6}
    assert len(ports) == 1


def test_a_name_works_on_a_machine_without_one_of_its_families(
    bound: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to("127.0.0.1", "192.0.2.1"))
    [sock] = bound(host="localhost", port=0)
    assert bound_addr(sock)[0] == "127.0.0.1"


def test_one_bad_address_leaves_nothing_bound(bound: Bind, monkeypatch: pytest.MonkeyPatch) -> None:
    port = quiet_port()
    [holder] = bound(host="127.0.0.2", port=port)
    listen([holder], 1)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolving_to("127.0.0.1", "127.0.0.2"))
        with pytest.raises(BindError, match="is in use"):
            bound(host="localhost", port=port)
    [sock] = bind(ServerConfig(host="127.0.0.1", port=port))
    listen([sock], 1)
    close_sockets([sock])


# Unix sockets


def test_a_unix_socket_has_the_mode_asked_for_and_goes_with_its_server(
    bound: Bind, short_tmp_path: Path
) -> None:
    path = short_tmp_path / "s"
    [sock] = bound(uds=str(path), uds_permissions=0o640)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert bound_addr(sock) == (str(path), 0)
    listen([sock], 1)
    assert answers(sock)
    close_sockets([sock])
    assert not path.exists()


def test_a_relative_socket_file_is_found_again_from_another_directory(
    bound: Bind, short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(short_tmp_path)
    [sock] = bound(uds="s")
    monkeypatch.chdir("/")
    close_sockets([sock])
    assert list(short_tmp_path.iterdir()) == []


def test_the_file_of_a_dead_server_is_replaced(bound: Bind, short_tmp_path: Path) -> None:
    path = short_tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen(1)
    [sock] = bound(uds=str(path))
    listen([sock], 1)
    assert answers(sock)


@pytest.mark.parametrize("queue_full", [False, True])
def test_a_live_server_keeps_its_socket_file(
    bound: Bind, short_tmp_path: Path, queue_full: bool
) -> None:
    path = short_tmp_path / "s"
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(socket.socket(socket.AF_UNIX))
        live.bind(str(path))
        live.listen(0)
        while queue_full:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(str(path))
            except BlockingIOError:
                break
        with pytest.raises(BindError, match=rf"^a server answers on {path}$"):
            bound(uds=str(path))
        assert path.exists()


def test_a_file_in_the_way_is_not_removed(bound: Bind, short_tmp_path: Path) -> None:
    path = short_tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(BindError, match=rf"^{path} exists and is not a socket$"):
        bound(uds=str(path))
    assert path.read_text() == "precious"


def test_a_datagram_socket_in_the_way_is_not_removed(bound: Bind, short_tmp_path: Path) -> None:
    path = short_tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(BindError, match=rf"^a socket of another type is at {path}$"):
            bound(uds=str(path))
        assert path.exists()


def test_a_path_without_its_directory_is_named(bound: Bind, short_tmp_path: Path) -> None:
    path = short_tmp_path / "missing" / "s"
    with pytest.raises(BindError, match=rf"^the directory of {path} does not exist$"):
        bound(uds=str(path))


def test_a_path_too_long_is_named(bound: Bind, short_tmp_path: Path) -> None:
    path = short_tmp_path / ("s" * 120)
    with pytest.raises(BindError, match=r"s is too long for a Unix socket \(\d+ bytes\)$"):
        bound(uds=str(path))


def test_a_socket_file_that_is_not_ours_any_more_is_left(bound: Bind, short_tmp_path: Path) -> None:
    path = short_tmp_path / "s"
    [sock] = bound(uds=str(path))
    os.rename(path, short_tmp_path / "old")
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))
        close_sockets([sock])
        assert path.exists()


def test_a_process_that_did_not_bind_leaves_the_socket_file(
    bound: Bind, short_tmp_path: Path
) -> None:
    path = short_tmp_path / "s"
    [sock] = bound(uds=str(path))
    program = (
        "import socket, sys; from pounce.net.sockets import close_sockets;"
        "close_sockets([socket.socket(fileno=int(sys.argv[1]))])"
    )
    fd = sock.fileno()
    subprocess.run([sys.executable, "-c", program, str(fd)], pass_fds=[fd], check=True, timeout=30)
    assert path.exists()


# Closing


def test_closing_tolerates_repeats_and_closed_ones(bound: Bind) -> None:
    [sock] = bound(port=0)
    [gone] = bound(port=0)
    gone.close()
    twin = socket.socket(fileno=sock.fileno())
    close_sockets([sock, gone, sock, twin])
    assert [s.fileno() for s in (sock, gone, twin)] == [-1, -1, -1]
    close_sockets([sock, gone, twin])


def test_a_second_object_over_one_descriptor_does_not_close_its_next_owner() -> None:
    sock = socket.socket()
    twin = socket.socket(fileno=sock.fileno())
    fd = sock.fileno()
    close_sockets([sock, twin])
    next_owner = os.open(os.devnull, os.O_RDONLY)
    try:
        assert next_owner == fd
        del twin
        os.fstat(next_owner)
    finally:
        os.close(next_owner)


# Inherited descriptors


@pytest.mark.parametrize(
    "family",
    [
        socket.AF_INET,
        pytest.param(socket.AF_INET6, marks=needs_ipv6),
        socket.AF_UNIX,
    ],
)
def test_an_inherited_socket_has_its_true_family(
    bound: Bind, short_tmp_path: Path, family: socket.AddressFamily
) -> None:
    path = short_tmp_path / "s"
    address: Any = {
        socket.AF_INET: ("127.0.0.1", 0),
        socket.AF_INET6: ("::1", 0),
        socket.AF_UNIX: str(path),
    }[family]
    original = socket.socket(family)
    original.bind(address)
    os.set_inheritable(original.fileno(), True)
    expected = original.getsockname()
    [sock] = bound(fd=original.detach())
    assert sock.family == family
    assert sock.type == socket.SOCK_STREAM
    assert sock.getsockname() == expected
    assert sock.getblocking() is False
    assert sock.get_inheritable() is False
    listen([sock], 1)
    assert answers(sock)
    close_sockets([sock])
    assert path.exists() == (family == socket.AF_UNIX)  # whoever bound it removes it


def refused_descriptor(kind: str, stack: contextlib.ExitStack) -> int:
    if kind == "file":
        fd = os.open(os.devnull, os.O_RDONLY)
        stack.callback(os.close, fd)
        return fd
    if kind == "connection":
        one, other = socket.socketpair()
        stack.enter_context(other)
        return stack.enter_context(one).fileno()
    type_ = socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM
    sock = stack.enter_context(socket.socket(socket.AF_INET, type_))
    if kind == "datagram":
        sock.bind(("127.0.0.1", 0))
    return sock.fileno()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("file", "is not a socket"),
        ("datagram", "is not a stream socket"),
        ("connection", "is a connection, not a listening socket"),
        ("unbound", "is a socket without an address"),
    ],
)
def test_an_inherited_descriptor_that_does_not_fit_is_refused_and_stays_open(
    bound: Bind, kind: str, reason: str
) -> None:
    with contextlib.ExitStack() as stack:
        fd = refused_descriptor(kind, stack)
        with pytest.raises(BindError, match=rf"^file descriptor {fd} {reason}$"):
            bound(fd=fd)
        os.fstat(fd)


def test_a_descriptor_that_is_not_open_is_refused(bound: Bind) -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    with pytest.raises(BindError, match=rf"^file descriptor {fd} is not open$"):
        bound(fd=fd)


# Names


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_an_abstract_socket_is_shown_with_an_at_sign() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"\0pounce-{os.getpid()}")
        assert bound_addr(sock) == (f"@pounce-{os.getpid()}", 0)
