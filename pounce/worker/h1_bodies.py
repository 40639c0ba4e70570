"""Request bodies of an HTTP/1.1 connection (RFC 9112 sections 6 and 7)."""

from __future__ import annotations

from math import inf

from pounce.errors import LimitError, ProtocolError
from pounce.protocol.h1_body import ChunkedReader, LengthReader
from pounce.protocol.h1_head import FieldBlock
from pounce.worker.h1_answering import H1Answering
from pounce.worker.request_cycle import BODY_HIGH_WATER


class H1Bodies(H1Answering):
    """What arrives of bodies, and what is dropped of them."""

    __slots__ = ()

    def _begin_body(self, block: FieldBlock, data: bytes, body_at: int) -> tuple[bytes, bool]:
        """The part of the body that is there, and whether it is all of it."""
        worker = self.worker
        limit = worker.limit_request_body
        length = block.content_length
        if block.chunked:
            limits = worker.parser.limits
            self.reader = ChunkedReader(limit, limits.head, limits.fields)
        elif length > 0:
            if limit and length > limit:
                raise LimitError("request body too large")
            end = body_at + length
            if len(data) >= end:
                self.pending = data[end:]
                return data[body_at:end], True
            self.reader = LengthReader(length)
        else:
            self.pending = data[body_at:]
            return b"", True
        self._allow_body()
        body, rest = self.reader.feed(data[body_at:])
        if rest is None:
            return body, False
        self.reader = None
        self.pending = rest
        return body, True

    def _feed_body(self, data: bytes) -> None:
        cycle, reader, worker = self.cycle, self.reader, self.worker
        assert reader is not None
        self._late_at += len(data) * worker.seconds_per_body_byte
        self.deadline = min(worker.clock + worker.timeout_request_body, self._late_at)
        try:
            body, rest = reader.feed(data)
        except ProtocolError as exc:
            self._body_failed(exc)
            return
        if cycle is None:
            self._discard_body(len(body), rest)
            return
        if rest is not None:
            self.reader = None
            self.pending = rest
            self.deadline = inf
        cycle.body_received(body, rest is not None)
        if rest is None and cycle.body_size > BODY_HIGH_WATER and self.cycle is cycle:
            self.pause_reading()
            # The peer cannot be late while it is not listened to.
            self.deadline = inf

    def _discard_body(self, size: int, rest: bytes | None) -> None:
        """Drops the rest of a body that was answered without having been read."""
        self._discard -= size
        if rest is not None:
            self.reader = None
            self.pending = rest
            self._become_idle()
            self._go_on()
        elif self._discard < 0:
            self._linger()
