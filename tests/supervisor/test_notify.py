"""What systemd hears, and that nobody else is bothered."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pounce.supervisor.notify import Notifier
from tests.waiting import wait_until

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")


class FakeSystemd:
    """The socket of a service manager."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        """The messages since the last call."""
        messages = []
        with contextlib.suppress(BlockingIOError):
            while True:
                messages.append(self.socket.recv(65536).decode())
        return messages

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def systemd(short_tmp_path: Path) -> Iterator[FakeSystemd]:
    manager = FakeSystemd(str(short_tmp_path / "notify"))
    yield manager
    manager.close()


@pytest.fixture
def notifier(systemd: FakeSystemd) -> Iterator[Notifier]:
    with Notifier(systemd.address) as made:
        yield made


def test_each_state_is_one_message(systemd: FakeSystemd, notifier: Notifier) -> None:
    notifier.ready()
    notifier.stopping()
    notifier.status("4 workers")
    notifier.main_pid(4242)
    assert systemd.heard() == ["READY=1", "STOPPING=1", "STATUS=4 workers", "MAINPID=4242"]


def test_a_state_and_its_status_are_told_at_once(systemd: FakeSystemd, notifier: Notifier) -> None:
    notifier.ready("4 workers")
    notifier.stopping("bye")
    assert systemd.heard() == ["READY=1\nSTATUS=4 workers", "STOPPING=1\nSTATUS=bye"]


def test_a_reload_carries_the_monotonic_time_in_the_same_message(
    systemd: FakeSystemd, notifier: Notifier
) -> None:
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    notifier.reloading("generation 2")
    after = time.clock_gettime(time.CLOCK_MONOTONIC)
    (message,) = systemd.heard()
    state, stamp, status = message.split("\n")
    assert state == "RELOADING=1"
    assert status == "STATUS=generation 2"
    name, _, microseconds = stamp.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before - 0.001 <= int(microseconds) / 1e6 <= after + 0.001


def test_a_status_cannot_forge_another_state(systemd: FakeSystemd, notifier: Notifier) -> None:
    notifier.status("failed:\nMAINPID=1\r\nREADY=1")
    assert systemd.heard() == ["STATUS=failed: MAINPID=1 READY=1"]


def test_text_that_cannot_be_encoded_is_told_all_the_same(
    systemd: FakeSystemd, notifier: Notifier
) -> None:
    notifier.status("app \udcff ä")
    assert systemd.heard() == ["STATUS=app ? ä"]


@linux_only
def test_a_name_in_the_abstract_namespace_is_reached() -> None:
    systemd = FakeSystemd(f"@pounce-test-{os.getpid()}")
    try:
        with Notifier(systemd.address) as notifier:
            notifier.ready()
        assert systemd.heard() == ["READY=1"]
    finally:
        systemd.close()


# The environment


def test_variables_are_taken_so_that_no_child_inherits_them(systemd: FakeSystemd) -> None:
    environment = {
        "NOTIFY_SOCKET": systemd.address,
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
        "PATH": "/bin",
    }
    with Notifier.from_environment(environment) as notifier:
        assert environment == {"PATH": "/bin"}
        assert notifier.watchdog_interval == 15
        notifier.ready()
    assert systemd.heard() == ["READY=1"]


def test_a_child_process_does_not_see_the_socket(
    systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.address)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    show = "import os; print([name for name in os.environ if name.startswith(('NOTIFY', 'WATCH'))])"
    with Notifier.from_environment():
        shown = subprocess.run([sys.executable, "-c", show], capture_output=True, check=True)
    assert shown.stdout == b"[]\n"


def test_the_next_master_is_given_the_socket(systemd: FakeSystemd) -> None:
    given = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "3000000"}
    with Notifier.from_environment(dict(given)) as old:
        handed_over = old.environment_of_successor()
    assert handed_over == given
    with Notifier.from_environment(handed_over) as new:
        assert new.watchdog_interval == 1.5
        new.ready()
    assert systemd.heard() == ["READY=1"]


# The watchdog


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({"WATCHDOG_USEC": "500000"}, 0.25),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "{pid}"}, 0.25),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_is_served_where_it_is_asked_for(
    systemd: FakeSystemd, variables: dict[str, str], interval: float | None
) -> None:
    environment = {
        "NOTIFY_SOCKET": systemd.address,
        **{name: value.format(pid=os.getpid()) for name, value in variables.items()},
    }
    with Notifier.from_environment(environment) as notifier:
        assert notifier.watchdog_interval == interval
        notifier.watchdog()
    assert systemd.heard() == ([] if interval is None else ["WATCHDOG=1"])


def test_a_period_that_is_no_number_is_named(
    systemd: FakeSystemd, caplog: pytest.LogCaptureFixture
) -> None:
    environment = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "soon"}
    Notifier.from_environment(environment).close()
    assert caplog.messages == ["WATCHDOG_USEC=soon is no number of microseconds"]


# Where nobody listens


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": "5"}])
def test_without_systemd_nothing_happens(environment: dict[str, str]) -> None:
    with Notifier.from_environment(environment) as notifier:
        assert not notifier.is_active
        assert notifier.watchdog_interval is None
        assert notifier.environment_of_successor() == {}
        notifier.ready("x")
        notifier.reloading()
        notifier.status("x")
        notifier.watchdog()
        notifier.main_pid(1)
        notifier.stopping()
        assert notifier.flush()


def test_a_manager_that_is_gone_is_logged_once(
    systemd: FakeSystemd, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "pounce.error")
    with Notifier(systemd.address) as notifier:
        systemd.close()
        os.unlink(systemd.address)
        notifier.ready()
        notifier.stopping()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("The service manager cannot be told the state: ")


def test_a_socket_of_a_strange_kind_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with Notifier("vsock:2:1234") as notifier:
        assert not notifier.is_active
        notifier.ready()
    assert caplog.messages == [
        "The service manager cannot be told the state: "
        "vsock:2:1234 is of a kind that is not supported"
    ]


def test_a_manager_that_is_back_is_told_again(systemd: FakeSystemd, notifier: Notifier) -> None:
    systemd.close()
    os.unlink(systemd.address)
    notifier.status("lost")
    again = FakeSystemd(systemd.address)
    try:
        notifier.status("heard")
        assert again.heard() == ["STATUS=heard"]
    finally:
        again.close()


def test_a_manager_that_does_not_read_blocks_nobody_and_hears_the_newest_later(
    systemd: FakeSystemd, notifier: Notifier
) -> None:
    for number in range(5000):
        notifier.status(f"number {number}")
    notifier.stopping()
    for number in range(5000, 5100):
        notifier.status(f"number {number}")
    assert not notifier.flush()

    heard: list[str] = []

    def everything_was_heard() -> bool:
        heard.extend(systemd.heard())
        return notifier.flush()

    wait_until(everything_was_heard, "everything was sent")
    heard += systemd.heard()
    assert heard[-2:] == ["STOPPING=1", "STATUS=number 5099"]
    heard.remove("STOPPING=1")
    numbers = [int(message.removeprefix("STATUS=number ")) for message in heard]
    assert numbers == sorted(numbers)
