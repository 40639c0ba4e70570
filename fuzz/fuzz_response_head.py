"""Any fields as those of a response: refused, or read back by h11's client as they were given.

Allowed: `ValueError` for names, values, statuses and lengths that make no response.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["pounce.protocol"]):
    from pounce.protocol.h1_response import ResponseEncoder, tails

import h11

SERVER_DECIDES = (b"connection", b"transfer-encoding", b"content-length")
NAMES = [b"content-length", b"Connection", b"Date", b"server", b"Transfer-Encoding", b"x"]
TAILS = tails(b"Sun, 06 Nov 1994 08:49:37 GMT", b"pounce")

shared = ResponseEncoder()


def one_input(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    status = provider.ConsumeIntInRange(150, 1050)
    fields = []
    for _ in range(provider.ConsumeIntInRange(0, 5)):
        choice = provider.ConsumeIntInRange(0, 2 * len(NAMES) - 1)
        name = NAMES[choice] if choice < len(NAMES) else provider.ConsumeBytes(4)
        fields.append((name, provider.ConsumeBytes(provider.ConsumeIntInRange(0, 20))))
    try:
        head = ResponseEncoder().encode(status, fields)
    except ValueError:
        return
    for given_as in (fields, [list(pair) for pair in fields]):
        known = shared.encode(status, given_as)
        assert (known.encoded, known.close, known.tail) == (head.encoded, head.close, head.tail)
    if any(byte in value for _, value in fields for byte in b"\x0b\x0c"):
        return  # h11 calls these white space
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="HEAD", target="/", headers=[("host", "a")]))
    client.receive_data(head.encoded + TAILS[head.tail])
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert isinstance(client.next_event(), h11.EndOfMessage)
    read_back = [pair for pair in response.headers if pair[0] not in SERVER_DECIDES]
    given = [(name.lower(), value.strip(b" \t")) for name, value in fields]
    ours = [pair for pair in given if pair[0] not in SERVER_DECIDES]
    assert read_back[: len(ours)] == ours, (read_back, ours)
    assert client.trailing_data == (b"", False)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
