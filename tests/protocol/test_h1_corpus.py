"""The corpus: streams of requests with the result that the rules demand, whole and in pieces."""

from __future__ import annotations

from typing import Any

import pytest

from pounce.protocol.h1_head import HeadParser
from tests.protocol.bodies import bytewise, splits
from tests.protocol.heads import CRLF2, ask_h11, disagreement, verdict
from tests.protocol.streams import Case, Message, load, persists_after, read, reader_of, unescape

VALID = load("valid")
INVALID = load("invalid")
# Cuts at every pair of places grow with the square of the length.
SHORT = 130

valid = pytest.mark.parametrize("case", VALID.values(), ids=VALID)
invalid = pytest.mark.parametrize("case", INVALID.values(), ids=INVALID)


def as_written(message: Message) -> dict[str, Any]:
    """A request as the corpus writes it, with all that may be left out."""
    line, block = message.head
    return {
        "method": line.method,
        "target": line.target.decode("latin-1"),
        "path": line.path,
        "query": line.query_string.decode("latin-1"),
        "version": line.http_version,
        "authority": line.authority and line.authority.decode("latin-1"),
        "fields": [
            [name.decode("latin-1"), value.decode("latin-1")] for name, value in block.pairs
        ],
        "content": message.content.decode("latin-1"),
        "close": not persists_after(message.head),
        "expect_continue": block.expect_continue,
        "takes_trailers": block.takes_trailers,
        "upgrade": block.upgrade and block.upgrade.decode("latin-1"),
    }


def expected(request: dict[str, Any]) -> dict[str, Any]:
    """A request of the corpus with what it leaves out."""
    path, _, query = request["target"].partition("?")
    return {
        "path": path,
        "query": query,
        "authority": None,
        "content": "",
        "close": False,
        "expect_continue": False,
        "takes_trailers": False,
        "upgrade": None,
        **request,
    }


def test_the_corpus_is_there() -> None:
    assert len(VALID) > 50
    assert len(INVALID) > 130
    assert not set(VALID) & set(INVALID)
    streams = [case.stream for case in (*VALID.values(), *INVALID.values())]
    assert len(set(streams)) == len(streams)


def test_the_escapes_of_the_corpus() -> None:
    assert unescape(b"a\\r\\n\n\\0\\x0b\n\\\\x00\\t \\x20\n") == b"a\r\n\0\x0b\\x00\t  "


@valid
def test_valid_streams(case: Case) -> None:
    outcome = read([case.stream])
    assert outcome.status is None
    assert [as_written(message) for message in outcome.messages] == [
        expected(request) for request in case.expected["requests"]
    ]
    assert outcome.content == b""
    # The connection ends with the last of them or waits for another.
    assert outcome.rest == b"" or not persists_after(outcome.messages[-1].head)


@valid
def test_how_a_valid_stream_arrives_changes_nothing(case: Case) -> None:
    parser = HeadParser()
    whole = [as_written(message) for message in read([case.stream]).messages]
    arrivals = [bytewise(case.stream), *splits(case.stream, 1)]
    if len(case.stream) <= SHORT:
        arrivals.extend(splits(case.stream, 2))
    for pieces in arrivals:
        outcome = read(pieces, parser)
        assert outcome.status is None
        assert [as_written(message) for message in outcome.messages] == whole


@valid
def test_no_beginning_of_a_valid_stream_is_refused(case: Case) -> None:
    messages = read([case.stream]).messages
    for end in range(len(case.stream)):
        outcome = read([case.stream[:end]])
        assert outcome.status is None
        assert len(outcome.messages) <= len(messages)
        if len(outcome.messages) < len(messages):
            assert messages[len(outcome.messages)].content.startswith(outcome.content)


@valid
def test_h11_says_the_same_of_valid_heads(case: Case) -> None:
    data = case.stream
    for message in read([data]).messages:
        head = data[: data.index(CRLF2) + 4]
        assert disagreement(message.head, ask_h11(head)) is None
        after = data[len(head) :]
        reader = reader_of(message.head)
        data = after if reader is None else reader.feed(after)[1] or b""


@invalid
def test_invalid_streams(case: Case) -> None:
    outcome = read([case.stream])
    assert outcome.status == case.expected["status"]
    assert len(outcome.messages) == case.expected.get("before", 0)


@invalid
def test_how_an_invalid_stream_arrives_changes_nothing(case: Case) -> None:
    until_then = case.expected.get("content", "").encode("latin-1")
    parser = HeadParser()
    arrivals = [bytewise(case.stream), *splits(case.stream, 1)]
    if len(case.stream) <= SHORT:
        arrivals.extend(splits(case.stream, 2))
    for pieces in arrivals:
        outcome = read(pieces, parser)
        assert outcome.status == case.expected["status"]
        assert len(outcome.messages) == case.expected.get("before", 0)
        assert until_then.startswith(outcome.content)


def test_what_was_remembered_of_the_rest_changes_nothing() -> None:
    heads = [
        case.stream[: case.stream.index(CRLF2) + 4] for case in (*VALID.values(), *INVALID.values())
    ]
    parser = HeadParser()
    for order in (heads, heads[::-1], heads, heads[::-1]):
        for head in order:
            assert verdict(head, parser) == verdict(head)
