"""Request bodies for tests: reading one in pieces, what h11 makes of it, and how to spoil one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import h11

from pounce.errors import ProtocolError
from pounce.protocol.h1_body import BodyReader


class Reading(NamedTuple):
    """What came of a body."""

    content: bytes
    rest: bytes | None
    """What follows the message, None when the message is incomplete."""
    status: int | None = None
    """What refused it."""


def read(reader: BodyReader, *pieces: bytes) -> Reading:
    """Feeds the pieces; those after the end of the message are what follows it."""
    content = bytearray()
    waiting = iter(pieces)
    for piece in waiting:
        try:
            part, rest = reader.feed(piece)
        except ProtocolError as exc:
            return Reading(bytes(content), None, exc.status)
        content += part
        if rest is not None:
            return Reading(bytes(content), rest + b"".join(waiting))
    return Reading(bytes(content), None)


def bytewise(data: bytes) -> list[bytes]:
    """Each byte by itself."""
    return [data[index : index + 1] for index in range(len(data))]


def splits(data: bytes, cuts: int) -> Iterator[list[bytes]]:
    """`data` cut at every place, or at every pair of places."""
    for first in range(1, len(data)):
        if cuts == 1:
            yield [data[:first], data[first:]]
        else:
            for second in range(first + 1, len(data)):
                yield [data[:first], data[first:second], data[second:]]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` cut at these places."""
    edges = [0, *sorted(place for place in set(places) if 0 < place < len(data)), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


def ask_h11(framing: bytes, data: bytes) -> Reading:
    """What h11 makes of a body behind a head with this framing field."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n" + data)
    assert isinstance(connection.next_event(), h11.Request)
    content = bytearray()
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as exc:
            return Reading(bytes(content), None, exc.error_status_hint)
        if isinstance(event, h11.Data):
            content += event.data
        elif isinstance(event, h11.EndOfMessage):
            return Reading(bytes(content), connection.trailing_data[0])
        else:
            assert event is h11.NEED_DATA
            return Reading(bytes(content), None)


NEXT: Final = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"

# Chunked bodies and their content, each followed by NEXT in the tests.
CHUNKED: Final = {
    b"0\r\n\r\n": b"",
    b"00000\r\n\r\n": b"",
    b"3\r\nabc\r\n0\r\n\r\n": b"abc",
    b"0003\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n": b"abc0123456789",
    b"4\r\n\r\n\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n": b"\r\n\r\n0\r\n\r\n",
    b"1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n": b"\r\n",
    b'2;a;b=c;d="e;\\"\r'.replace(b"\r", b"") + b'f"\r\nab\r\n0;z\r\n\r\n': b"ab",
    b"1\r\na\r\n0\r\nX: y\r\n\r\n": b"a",
    b"0\r\nX:\r\nx-a:b \t \r\n\r\n": b"",
    b"1;a=b\r\na\r\n0;c\r\nX: y \r\nZ: \t\r\n\r\n": b"a",
}

# Chunked bodies that are refused, and the content that may have been delivered until then.
MALFORMED: Final = {
    # the size
    b"\r\n": b"",
    b"g\r\n": b"",
    b"-1\r\n": b"",
    b"+1\r\na\r\n0\r\n\r\n": b"",
    b"0x1\r\na\r\n0\r\n\r\n": b"",
    b"1_0\r\n": b"",
    b" 1\r\na\r\n0\r\n\r\n": b"",
    b"1 \r\na\r\n0\r\n\r\n": b"",
    b"1\t\r\na\r\n0\r\n\r\n": b"",
    b"\xb2\r\n": b"",
    b"00000000000000001\r\na\r\n0\r\n\r\n": b"",
    b"10000000000000001\r\na\r\n0\r\n\r\n": b"",
    b"1\r\na\r\n\r\n0\r\n\r\n": b"a",
    # the extension
    b"1;\r\na\r\n0\r\n\r\n": b"",
    b"1;a=\r\na\r\n0\r\n\r\n": b"",
    b'1;a="b\r\na\r\n0\r\n\r\n': b"",
    b"1;a b\r\na\r\n0\r\n\r\n": b"",
    b"1 a\r\na\r\n0\r\n\r\n": b"",
    b"0;\r\n\r\n": b"",
    # CR or LF in the extension: where a chunk ends in the eyes of one parser and not of another
    b"1;a\ra\r\na\r\n0\r\n\r\n": b"",
    b"1;\ra\r\na\r\n0\r\n\r\n": b"",
    b"1;a\r\r\na\r\n0\r\n\r\n": b"",
    b'1;a="\r"\r\na\r\n0\r\n\r\n': b"",
    b'1;a="\n"\r\na\r\n0\r\n\r\n': b"",
    b"1;\na\r\n0\r\n\r\n": b"",
    b"1;a\nb\r\na\r\n0\r\n\r\n": b"",
    b"1;a\x00\r\na\r\n0\r\n\r\n": b"",
    b"2;\nxx\r\n45\r\n0\r\n\r\n": b"",
    # line ends
    b"1\na\n0\n\n": b"",
    b"1\ra\r0\r\r": b"",
    b"1\n\ra\r\n0\r\n\r\n": b"",
    b"1\r\r\na\r\n0\r\n\r\n": b"",
    b"1\r\na\n0\r\n\r\n": b"a",
    b"1\r\na\r0\r\n\r\n": b"a",
    b"1\r\na\n\r0\r\n\r\n": b"a",
    b"1\r\na0\r\n\r\n": b"a",
    b"1\r\nab\r\n0\r\n\r\n": b"a",
    b"3\r\nabcdef\r\n0\r\n\r\n": b"abc",
    b"3\r\nab\r\n0\r\n\r\n": b"ab\r",
    # the trailer section
    b"0\r\n\n": b"",
    b"0\r\n\r\r\n": b"",
    b"0\n\r\n": b"",
    b"0\r\nX\r\n\r\n": b"",
    b"0\r\nX : y\r\n\r\n": b"",
    b"0\r\n X: y\r\n\r\n": b"",
    b"0\r\nX: y\r\n z\r\n\r\n": b"",
    b"0\r\nX: y\nZ: z\r\n\r\n": b"",
    b"0\r\nX: y\r\n\n": b"",
    b"0\r\nX: a\rb\r\n\r\n": b"",
    b"0\r\nX: \x00\r\n\r\n": b"",
    b"0\r\n: y\r\n\r\n": b"",
    b"1\r\na\r\n0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n": b"a",
}

_TOKENS: Final = [
    *[
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n\n",
        b"\x00",
        b" ",
        b"\t",
        b";",
        b"=",
        b'"',
        b"\\",
        b"0",
        b"1",
    ],
    *[
        b"a",
        b"F",
        b"f",
        b"g",
        b"-",
        b"+",
        b"_",
        b"x",
        b"0x",
        b";a",
        b";a=b",
        b';a="b"',
        b" ;a",
        b"; a = b",
    ],
    *[
        b"0\r\n",
        b"0\r\n\r\n",
        b"1\r\na\r\n",
        b"X: y\r\n",
        b"X : y\r\n",
        b" z\r\n",
        b"\x80",
        b"\x7f",
        b"FFFFFFFF",
    ],
]


def mutate(rng: random.Random) -> bytes:
    """A chunked body with some small changes."""
    body = bytearray(rng.choice(list(CHUNKED)) + NEXT[: rng.choice((0, 3))])
    for _ in range(rng.choice((1, 1, 2, 3))):
        position = rng.randrange(len(body) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            body[position:position] = rng.choice(_TOKENS)
        elif kind == 1:
            body[position : position + rng.randrange(3)] = rng.choice(_TOKENS)
        elif kind == 2:
            del body[position : position + rng.choice((1, 1, 2, 5))]
        elif body:
            body[position - 1] = rng.randrange(256)
    return bytes(body)
