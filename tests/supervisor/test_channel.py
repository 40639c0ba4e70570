"""The line between the master and a worker."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pounce.supervisor.channel import MAX_LINE, Channel, fitting


class End:
    """One end, with what it was told."""

    def __init__(self, sock: socket.socket) -> None:
        self.messages: list[dict[str, Any]] = []
        self.ends = 0
        self.channel = Channel(sock, self.messages.append, self._end)

    def _end(self) -> None:
        self.ends += 1


@pytest.fixture
def socks() -> Iterator[tuple[socket.socket, socket.socket]]:
    pair = socket.socketpair()
    yield pair
    for sock in pair:
        sock.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def test_messages_arrive_in_order(socks: tuple[socket.socket, socket.socket]) -> None:
    async def main() -> None:
        one, other = map(End, socks)
        for number in range(100):
            one.channel.send("count", number=number)
        other.channel.send("hello", text="é\n")
        await until(lambda: len(other.messages) == 100 and one.messages)
        assert other.messages == [{"kind": "count", "number": number} for number in range(100)]
        assert one.messages == [{"kind": "hello", "text": "é\n"}]
        one.channel.close()
        other.channel.close()

    asyncio.run(main())


def test_the_end_is_told_once(socks: tuple[socket.socket, socket.socket]) -> None:
    async def main() -> None:
        one, other = map(End, socks)
        one.channel.send("last")
        one.channel.close()
        one.channel.close()
        await until(lambda: other.ends)
        assert other.messages == [{"kind": "last"}]
        other.channel.send("too late")
        other.channel.close()
        assert (one.ends, other.ends) == (0, 1)

    asyncio.run(main())


def test_the_rest_is_read_at_once(socks: tuple[socket.socket, socket.socket]) -> None:
    async def main() -> None:
        one, other = map(End, socks)
        one.channel.send("first")
        one.channel.send("last")
        # The other side is not closed: a process that the worker left behind may hold it open.
        other.channel.read_rest()
        assert [message["kind"] for message in other.messages] == ["first", "last"]
        assert other.ends == 1
        one.channel.close()

    asyncio.run(main())


def test_a_side_that_does_not_read_blocks_nobody(
    socks: tuple[socket.socket, socket.socket],
) -> None:
    async def main() -> None:
        one = End(socks[0])
        for number in range(20_000):
            one.channel.send("count", number=number)
        other = End(socks[1])
        await until(lambda: len(other.messages) > 100)
        one.channel.close()
        await until(lambda: other.ends)
        numbers = [message["number"] for message in other.messages]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) < 20_000

    asyncio.run(main())


@pytest.mark.parametrize("data", [b"x" * (2 * MAX_LINE), b"\xff\n"])
def test_nonsense(
    socks: tuple[socket.socket, socket.socket], data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        other = End(socks[1])
        socks[0].setblocking(False)
        socks[0].send(data)
        if data.endswith(b"\n"):
            socks[0].send(b'{"kind": "sense"}\n')
            await until(lambda: other.messages)
            assert "no JSON" in caplog.text
        else:
            await until(lambda: other.ends)
        other.channel.close()

    asyncio.run(main())


@pytest.mark.parametrize("text", ["", "short", 'é\N{GRINNING FACE}\n"\\' * 40_000 + "end"])
def test_the_end_of_a_long_text_fits(socks: tuple[socket.socket, socket.socket], text: str) -> None:
    kept = fitting(text)
    assert text.endswith(kept)
    assert kept.endswith(text[-3:])
    assert len(kept) == len(text) or len(kept) > 4000

    async def main() -> None:
        one, other = map(End, socks)
        one.channel.send("failed", message=kept)
        await until(lambda: other.messages)
        assert other.messages == [{"kind": "failed", "message": kept}]
        one.channel.close()
        other.channel.close()

    asyncio.run(main())
