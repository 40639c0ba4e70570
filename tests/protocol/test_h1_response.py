from __future__ import annotations

import http
from collections.abc import Iterable, Sequence
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.protocol import grammar
from pounce.protocol.h1_response import (
    BODILESS,
    CACHED_BYTES,
    CACHED_FIELDS,
    CACHED_HEADS,
    CHUNKED,
    CLOSE,
    CONTINUE,
    KEEP_ALIVE,
    LAST_CHUNK,
    UNKNOWN_LENGTH,
    ResponseEncoder,
    ResponseHead,
    chunk,
    encode_field,
    encode_fields,
    status_line,
    tails,
)

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
TAILS = tails(DATE, b"pounce")

Fields = Iterable[Sequence[bytes]]


def encode(
    status: int, fields: Fields = (), encoder: ResponseEncoder | None = None
) -> ResponseHead:
    return (encoder or ResponseEncoder()).encode(status, fields)


def lines(head: ResponseHead) -> list[bytes]:
    """Status line and field lines."""
    assert head.encoded.endswith(b"\r\n")
    return head.encoded.split(b"\r\n")[:-1]


def facts(head: ResponseHead) -> dict[str, Any]:
    return {name: getattr(head, name) for name in ResponseHead.__slots__}


def received(data: bytes, method: bytes = b"GET") -> tuple[h11.Response, bytes, bytes]:
    """What a client makes of a response: its head, its content, and what follows it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target=b"/", headers=[("host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    head = client.next_event()
    while isinstance(head, h11.InformationalResponse):
        head = client.next_event()
    assert isinstance(head, h11.Response), head
    content = bytearray()
    event: Any = client.next_event()
    while isinstance(event, h11.Data):
        content += event.data
        event = client.next_event()
    assert isinstance(event, h11.EndOfMessage), event
    return head, bytes(content), client.trailing_data[0]


# Status lines


def test_status_lines() -> None:
    assert status_line(200) == b"HTTP/1.1 200 OK\r\n"
    assert status_line(404) == b"HTTP/1.1 404 Not Found\r\n"
    # RFC 9112 section 4: the space before an absent reason is not optional.
    assert status_line(299) == b"HTTP/1.1 299 \r\n"


@pytest.mark.parametrize("status", [*map(int, http.HTTPStatus), 209, 299, 599, 600, 999])
def test_a_client_understands_every_status(status: int) -> None:
    if status < 200:
        with pytest.raises(ValueError, match="final status"):
            encode(status)
        return
    data = encode(status, [(b"content-length", b"0")]).encoded + TAILS[0]
    assert received(data)[0].status_code == status
    assert received(data)[2] == b""


@pytest.mark.parametrize(
    "status", [-1, 0, 1, 99, 100, 101, 103, 199, 1000, 2000, None, "200", b"200", 200.5]
)
def test_what_is_no_final_status(status: Any) -> None:
    with pytest.raises(ValueError, match="final status"):
        encode(status)


def test_a_status_may_be_given_as_its_enumeration() -> None:
    assert encode(http.HTTPStatus.CREATED).encoded == b"HTTP/1.1 201 Created\r\n"


# Fields


def test_fields_are_written_in_order_as_they_are_spelled() -> None:
    head = encode(200, [(b"X-A", b"b"), (b"x-a", b" c\t"), (b"Empty", b""), (b"x", b"\xe4 \t y")])
    assert lines(head) == [b"HTTP/1.1 200 OK", b"X-A: b", b"x-a: c", b"Empty: ", b"x: \xe4 \t y"]
    assert facts(head) == {
        "encoded": head.encoded,
        "content_length": UNKNOWN_LENGTH,
        "close": False,
        "has_body": True,
        "tail": 0,
    }


INJECTIONS = [
    *[
        (b"x", value)
        for value in (
            b"a\r\nb: c",
            b"a\r\n\r\n",
            b"a\rb",
            b"a\nb",
            b"a\x00b",
            b"\r",
            b"\n",
            b"\x00",
        )
    ],
    *[(b"x", value) for value in (b"a\r", b"\na", b"a\r\n", b"\r\na", b"a\n\n", b" \r\n ")],
    *[
        (name, b"a")
        for name in (b"", b" ", b"x ", b" x", b"x\t", b"x:", b":", b"x: y\r\nz", b"x\r", b"x\n")
    ],
    *[
        (name, b"a")
        for name in (b"\r\nx", b"x\x00", b"\xe4", b"x y", b"x/y", b'"x"', b"(x)", b"x\x7f", b"x@")
    ],
]


@pytest.mark.parametrize(("name", "value"), INJECTIONS)
@pytest.mark.parametrize("before", [[], [(b"a", b"b")]])
def test_a_field_cannot_become_more_than_a_field(
    name: bytes, value: bytes, before: list[tuple[bytes, bytes]]
) -> None:
    encoder = ResponseEncoder()
    for _ in range(2):  # what was refused is not remembered
        for fields in ([*before, (name, value)], [*before, [name, value]]):
            with pytest.raises(ValueError, match="header"):
                encode(200, fields, encoder)
    with pytest.raises(ValueError, match="header"):
        encode_field(name, value)
    with pytest.raises(ValueError, match="header"):
        encode_fields([*before, (name, value)])


@pytest.mark.parametrize("value", [b"5\r\nx: y", b"5\r", b"\n5", b"5\x00"])
@pytest.mark.parametrize(
    "name", [b"content-length", b"transfer-encoding", b"connection", b"date", b"server"]
)
def test_a_field_that_is_not_written_is_checked_as_well(name: bytes, value: bytes) -> None:
    with pytest.raises(ValueError, match="header"):
        encode(200, [(name, value)])


@pytest.mark.parametrize(
    "pair",
    [
        *[("x", b"y"), (b"x", "y"), ("x", "y"), (b"x", None), (None, b"y"), (b"x", 5), (1, 2)],
        *[
            (b"x", bytearray(b"y")),
            (bytearray(b"x"), b"y"),
            (b"x", memoryview(b"y")),
            (b"x", [b"y"]),
        ],
    ],
)
@pytest.mark.parametrize("container", [tuple, list])
@pytest.mark.parametrize("collection", [list, tuple, iter])
def test_names_and_values_are_bytes(pair: Any, container: Any, collection: Any) -> None:
    encoder = ResponseEncoder()
    for _ in range(2):
        with pytest.raises(TypeError):
            encode(200, collection([(b"a", b"b"), container(pair)]), encoder)
    with pytest.raises(TypeError):
        encode_fields([container(pair)])


@pytest.mark.parametrize(
    "fields", [[(b"x",)], [(b"x", b"y", b"z")], [[b"x"]], [()], [b"xyz"], [5], [None], 5]
)
def test_fields_are_pairs(fields: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode(200, fields)


def test_how_the_fields_are_given_makes_no_difference() -> None:
    fields = [(b"Content-Length", b"5"), (b"x", b"y"), (b"Connection", b"close"), (b"Date", b"d")]
    expected = facts(encode(200, fields))
    forms: list[Any] = [
        tuple(fields),
        [list(pair) for pair in fields],
        tuple(list(pair) for pair in fields),
        [fields[0], list(fields[1]), *fields[2:]],
    ]
    for shared in (False, True):
        encoder = ResponseEncoder()
        for form in forms:
            for given_as in (form, iter(form), (pair for pair in form)):
                head = encode(200, given_as, encoder if shared else ResponseEncoder())
                assert facts(head) == expected


def test_encode_fields() -> None:
    assert encode_fields([]) == b""
    assert encode_fields([(b"A", b"b"), [b"c", b" d"]]) == b"A: b\r\nc: d\r\n"


# Fields that the server decides on


@pytest.mark.parametrize("name", [b"content-length", b"Content-Length", b"CONTENT-LENGTH"])
def test_content_length_is_read_and_written(name: bytes) -> None:
    head = encode(200, [(name, b"12")])
    assert head.content_length == 12
    assert lines(head)[1:] == [name + b": 12"]


@pytest.mark.parametrize(
    "value", [b"", b"-1", b"+1", b"1 2", b"1,1", b"0x1", b"1_0", b"a", b"1.0", b"\xb2", b"9" * 19]
)
def test_a_malformed_content_length_is_refused(value: bytes) -> None:
    for fields in ([(b"content-length", value)], [[b"content-length", value]]):
        with pytest.raises(ValueError, match="content-length"):
            encode(200, fields)


def test_a_content_length_is_written_once() -> None:
    head = encode(200, [(b"content-length", b"5"), (b"x", b"y"), (b"Content-Length", b"5")])
    assert head.content_length == 5
    assert lines(head)[1:] == [b"content-length: 5", b"x: y"]
    with pytest.raises(ValueError, match="conflicting"):
        encode(200, [(b"content-length", b"5"), (b"Content-Length", b"6")])


@pytest.mark.parametrize("status", [204, 304])
def test_responses_without_content(status: int) -> None:
    assert status in BODILESS
    head = encode(status, [(b"content-length", b"5"), (b"x", b"y")])
    assert not head.has_body
    # RFC 9110 section 8.6: none with 204; with 304 it is that of the 200.
    assert (b"content-length: 5" in lines(head)) is (status == 304)
    assert received(head.encoded + TAILS[0] + b"HTTP/1.1")[1:] == (b"", b"HTTP/1.1")


@pytest.mark.parametrize("status", [200, 201, 205, 301, 400, 500])
def test_other_responses_have_content(status: int) -> None:
    assert encode(status).has_body


@pytest.mark.parametrize(
    ("value", "close"),
    [
        *[
            (value, True)
            for value in (b"close", b"Close", b"x, close", b" close ,y", b"keep-alive,close")
        ],
        *[(value, False) for value in (b"keep-alive", b"", b"closed", b"upgrade", b"clo se")],
    ],
)
def test_connection_is_noted_and_left_to_the_server(value: bytes, close: bool) -> None:
    head = encode(200, [(b"x", b"y"), (b"Connection", value)])
    assert head.close is close
    assert lines(head)[1:] == [b"x: y"]


def test_one_connection_field_of_several_suffices_to_close() -> None:
    assert encode(200, [(b"connection", b"close"), (b"connection", b"keep-alive")]).close
    assert encode(200, [(b"connection", b"keep-alive"), (b"connection", b"close")]).close


@pytest.mark.parametrize("value", [b"chunked", b"gzip", b"identity", b""])
def test_transfer_encoding_is_left_to_the_server(value: bytes) -> None:
    head = encode(200, [(b"Transfer-Encoding", value), (b"content-length", b"5")])
    assert lines(head)[1:] == [b"content-length: 5"]


@pytest.mark.parametrize(
    ("fields", "tail"),
    [
        ([], 0),
        ([(b"Date", b"d")], 1),
        ([(b"SERVER", b"s")], 2),
        ([(b"server", b"s"), (b"x", b"y"), (b"date", b"d"), (b"date", b"e")], 3),
    ],
)
def test_date_and_server_of_the_application_take_the_place_of_ours(
    fields: list[tuple[bytes, bytes]], tail: int
) -> None:
    head = encode(200, [*fields, (b"content-length", b"0")])
    assert head.tail == tail
    names = [name for name, _ in received(head.encoded + TAILS[head.tail])[0].headers]
    given = [name.lower() for name, _ in fields]
    assert names.count(b"date") == (given.count(b"date") or 1)
    assert names.count(b"server") == (given.count(b"server") or 1)


def test_tails() -> None:
    server, date = b"server: pounce\r\n", b"date: " + DATE + b"\r\n"
    assert tails(DATE, b"pounce") == (
        server + date + b"\r\n",
        server + b"\r\n",
        date + b"\r\n",
        b"\r\n",
    )
    extra = encode_fields([(b"X-A", b"b")])
    assert tails(None, None, extra) == (b"X-A: b\r\n\r\n",) * 4
    assert tails(DATE, None, extra)[0] == date + extra + b"\r\n"
    assert tails(None, b"pounce", extra)[3] == extra + b"\r\n"


def test_what_is_fixed_is_well_formed() -> None:
    assert status_line(100) + b"\r\n" == CONTINUE
    for line in (CHUNKED, CLOSE, KEEP_ALIVE):
        assert grammar.FIELD_LINE.fullmatch(line.removesuffix(b"\r\n"))


# What is remembered


def test_what_is_remembered_is_what_was_encoded() -> None:
    encoder = ResponseEncoder()
    fields = [(b"content-length", b"5"), (b"connection", b"close")]
    assert encode(200, fields, encoder) is encode(200, tuple(fields), encoder)
    assert facts(encode(404, fields, encoder)) == facts(encode(404, fields))
    assert facts(encode(200, fields[::-1], encoder)) == facts(encode(200, fields[::-1]))
    assert facts(encode(204, fields, encoder)) == facts(encode(204, fields))


def test_the_tables_are_bounded() -> None:
    encoder = ResponseEncoder()
    for number in range(2 * CACHED_HEADS + 10):
        encode(200, [(b"x", b"%d" % number)], encoder)
        assert 0 < len(encoder._heads) <= CACHED_HEADS
        assert 0 < len(encoder._field_lines) <= CACHED_HEADS
    many = [(b"x", b"y")] * CACHED_FIELDS
    long = [(b"x", b"y" * CACHED_BYTES)]
    for fields in (many, long):
        before = len(encoder._heads)
        assert facts(encode(200, fields, encoder)) == facts(encode(200, fields))
        assert len(encoder._heads) == before


def test_long_fields_are_not_remembered() -> None:
    encoder = ResponseEncoder()
    encode(200, [(b"location", b"y" * CACHED_BYTES)], encoder)
    assert not encoder._field_lines


# Properties

names = st.from_regex(grammar.RESPONSE_NAME, fullmatch=True)
values = st.binary(max_size=12)
some_fields = st.lists(
    st.one_of(
        st.tuples(names, values),
        st.tuples(st.binary(max_size=4), values),
        st.tuples(
            st.sampled_from(
                [b"content-length", b"Connection", b"date", b"Server", b"transfer-encoding"]
            ),
            st.sampled_from([b"5", b"close", b"x", b"chunked"]),
        ),
    ),
    max_size=4,
)
SHARED = ResponseEncoder()


@given(st.sampled_from([200, 204, 304, 404]), some_fields)
def test_what_is_encoded_is_what_a_client_reads(
    status: int, fields: list[tuple[bytes, bytes]]
) -> None:
    try:
        expected = facts(encode(status, fields))
    except ValueError:
        with pytest.raises(ValueError, match=r"header|content-length"):
            encode(status, fields, SHARED)
        return
    for form in (fields, [list(pair) for pair in fields], fields):
        assert facts(encode(status, form, SHARED)) == expected
    if any(byte in value for _, value in fields for byte in b"\x0b\x0c"):
        return  # h11 calls these white space
    head = encode(status, fields)
    framing = CHUNKED if head.content_length == UNKNOWN_LENGTH else b""
    server_decides = (b"connection", b"transfer-encoding", b"content-length")
    response, _, after = received(head.encoded + framing + TAILS[3] + b"0\r\n\r\n", b"HEAD")
    assert after == b"0\r\n\r\n"
    assert [(n, v) for n, v in response.headers if n not in server_decides] == [
        (n.lower(), v.strip(b" \t")) for n, v in fields if n.lower() not in server_decides
    ]


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5), st.binary(max_size=9))
def test_a_client_reads_the_chunks_back(parts: list[bytes], after: bytes) -> None:
    start = encode(200).encoded + CHUNKED + TAILS[0]
    data = start + b"".join(map(chunk, parts)) + LAST_CHUNK
    assert received(data + after)[1:] == (b"".join(parts), after)
