r"""Whole streams of requests for tests: the files of the corpus, and reading a stream in pieces.

A file of the corpus is text. Line ends in it only make it readable; what counts is written as
`\r`, `\n`, `\t`, `\0`, `\\` and `\xHH`. The JSON file beside it says what comes of the stream, and
which rule says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from pounce.errors import ProtocolError
from pounce.protocol.h1_body import BodyReader, ChunkedReader, LengthReader
from pounce.protocol.h1_head import HeadParser, RequestHead
from tests.protocol.heads import CRLF2

CORPUS: Final = Path(__file__).parent / "corpus"

_ESCAPES: Final = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


class Case(NamedTuple):
    """A stream, and what its JSON file says of it."""

    stream: bytes
    expected: dict[str, Any]


def load(kind: str) -> dict[str, Case]:
    """The cases of the corpus in a folder, by name."""
    files = sorted((CORPUS / kind).glob("*.http"))
    return {
        file.stem: Case(
            unescape(file.read_bytes()), json.loads(file.with_suffix(".json").read_text())
        )
        for file in files
    }


def unescape(text: bytes) -> bytes:
    """The bytes that a file of the corpus stands for."""

    def byte(match: re.Match[bytes]) -> bytes:
        return bytes([int(match[2], 16)]) if match[2] else _ESCAPES[match[1]]

    return re.sub(rb"\\(x([0-9a-f]{2})|.)", byte, text.replace(b"\n", b""))


class Message(NamedTuple):
    """A complete request."""

    head: RequestHead
    content: bytes


class Outcome(NamedTuple):
    """What came of a stream."""

    messages: list[Message]
    status: int | None
    """What refused a request; None when none was."""
    content: bytes
    """What was delivered of the content of a request that was not complete."""
    rest: bytes
    """What was not read: an incomplete head, or what follows the end of the connection."""


def read(pieces: Iterable[bytes], parser: HeadParser | None = None) -> Outcome:
    """Reads requests until one is refused or ends the connection."""
    parser = parser or HeadParser()
    messages: list[Message] = []
    head: RequestHead | None = None
    reader: BodyReader | None = None
    content = bytearray()
    pending = b""
    persists = True
    for piece in pieces:
        pending += piece
        while pending and persists:
            try:
                if reader is None:
                    end = pending.find(CRLF2)
                    if end < 0:
                        break
                    head = parser.parse(pending, pending.find(b"\r\n"), end)
                    pending = pending[end + 4 :]
                    reader = reader_of(head)
                if reader is not None:
                    part, rest = reader.feed(pending)
                    content += part
                    pending = rest or b""
                    if rest is None:
                        break
            except ProtocolError as exc:
                return Outcome(messages, exc.status, bytes(content), b"")
            assert head is not None
            messages.append(Message(head, bytes(content)))
            persists = persists_after(head)
            reader, content = None, bytearray()
    return Outcome(messages, None, bytes(content), pending)


def reader_of(head: RequestHead) -> BodyReader | None:
    """What reads the content of a request; None when it has none."""
    if head.block.chunked:
        return ChunkedReader()
    length = head.block.content_length
    return LengthReader(length) if length > 0 else None


def persists_after(head: RequestHead) -> bool:
    """Whether a request may follow this one (RFC 9112 section 9.3)."""
    line, block = head
    if block.close or line.method == "CONNECT":
        return False
    return line.http_version == "1.1" or block.keep_alive
