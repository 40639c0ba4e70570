"""Files sent by the server, trailers, early hints, debug: over plain sockets and TLS."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.endpoint import Endpoint, get, new_key, post, serve
from tests.integration.responses import IncompleteResponse, parse_response, parse_responses
from tests.waiting import wait_until

VARIANTS = ["uvloop tcp", "asyncio tcp", "uvloop tls", "asyncio tls", "uvloop unix", "asyncio unix"]
CONTENT = random.Random(1).randbytes(100_000)


@pytest.fixture(scope="module", params=VARIANTS)
def endpoint(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    loop, via = request.param.split()
    with serve(loop=loop, via=via) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "content"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "large"
    path.write_bytes(CONTENT * 200)  # 20 MB: more than all buffers on the way
    return path


# pathsend


def test_path_send(endpoint: Endpoint, file: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with endpoint.connect() as connection:
        for path, content in ((file, CONTENT), (empty, b""), (file, CONTENT)):
            response = connection.ask(get(f"/path-send?{path}"))
            assert response.body == content
            assert response.value(b"content-length") == b"%d" % len(content)
        response = connection.ask(get(f"/path-send?{file}", method="HEAD"), "HEAD")
        assert response.value(b"content-length") == b"%d" % len(CONTENT)
        assert connection.ask(get("/next")).body == b"/next"


def test_path_send_to_http_1_0(endpoint: Endpoint, file: Path) -> None:
    response = parse_response(endpoint.exchange(get(f"/path-send?{file}", version="1.0")))
    assert response.body == CONTENT
    assert response.value(b"content-length") == b"%d" % len(CONTENT)


def test_path_send_of_what_is_not_there(endpoint: Endpoint, tmp_path: Path) -> None:
    assert endpoint.ask(get(f"/path-send?{tmp_path}/nothing")).status == 500
    assert endpoint.ask(get(f"/path-send?{tmp_path}")).status == 500


def test_pipelined_files(endpoint: Endpoint, file: Path) -> None:
    with endpoint.connect() as connection:
        connection.send((get(f"/path-send?{file}") + get("/between")) * 10)
        found = connection.receive(*["GET"] * 20)
    assert [response.body for response in found] == [CONTENT, b"/between"] * 10


# zerocopysend

PARTS = [
    ("-", CONTENT, True, 100_000),
    ("-10", CONTENT[:10], True, 10),
    ("500-", CONTENT[500:], True, 0),
    ("500-1000", CONTENT[500:1500], True, 0),
    ("99990-1000", CONTENT[99_990:], True, 0),
    ("100000-", b"", True, 0),
    ("200000-5", b"", True, 0),
    ("0-0", b"", True, 0),
    ("-10/-10", CONTENT[:20], False, 20),
    ("-10/5-5/-10", CONTENT[:10] + CONTENT[5:10] + CONTENT[10:20], False, 20),
    ("before/-/after", b"before" + CONTENT + b"after", False, 100_000),
    ("before/10-20", b"before" + CONTENT[10:30], False, 0),
    ("10-20/after", CONTENT[10:30] + b"after", False, 0),
    ("a/0-1/b/0-0/c/1-1/d", b"a" + CONTENT[:1] + b"bc" + CONTENT[1:2] + b"d", False, 0),
]


@pytest.mark.parametrize(
    ("parts", "content", "with_length", "position"), PARTS, ids=[part[0] for part in PARTS]
)
def test_zero_copy_send(
    endpoint: Endpoint, file: Path, parts: str, content: bytes, with_length: bool, position: int
) -> None:
    key = new_key()
    with endpoint.connect() as connection:
        response = connection.ask(get(f"/zero-copy/{key}/{parts}?{file}"))
        assert response.body == content
        assert bool(response.values(b"content-length")) is with_length
        assert bool(response.values(b"transfer-encoding")) is not with_length
        assert connection.ask(get("/next")).body == b"/next"
    endpoint.wait_for(key, f"sent, at {position}")


def test_zero_copy_send_to_head_and_http_1_0(endpoint: Endpoint, file: Path) -> None:
    path = f"/zero-copy/{new_key()}/a/-/b?{file}"
    with endpoint.connect() as connection:
        assert connection.ask(get(path, method="HEAD"), "HEAD").body == b""
        assert connection.ask(get("/next")).body == b"/next"
    response = parse_response(endpoint.exchange(get(path, version="1.0")))
    assert response.body == b"a" + CONTENT + b"b"


def test_a_large_file_reaches_a_slow_reader(endpoint: Endpoint, large: Path) -> None:
    expected = hashlib.sha256(large.read_bytes()).hexdigest()
    for path in (f"/path-send?{large}", f"/zero-copy/{new_key()}/0-/x?{large}"):
        with endpoint.connect(receive_buffer=65536) as slow:
            slow.send(get(path))
            # It holds nobody else up meanwhile.
            assert endpoint.ask(get("/served")).body == b"/served"
            body = slow.receive()[0].body
            assert hashlib.sha256(body[: 200 * len(CONTENT)]).hexdigest() == expected
            assert slow.ask(get("/next")).body == b"/next"


@pytest.mark.parametrize("parts", ["0-", "0-/0-/0-"])
def test_a_client_that_leaves_in_the_middle_of_a_file(
    endpoint: Endpoint, large: Path, parts: str
) -> None:
    for leave in ("close", "reset"):
        key = new_key()
        with endpoint.connect(receive_buffer=4096) as connection:
            connection.send(get(f"/zero-copy/{key}/{parts}?{large}"))
            connection.sock.recv(1000)
            if leave == "reset":
                connection.reset()
        endpoint.wait_for(key, "ClientDisconnected")
    assert "exception in the application, GET /zero-copy" not in endpoint.server.stderr_text()
    wait_until(lambda: not open_files(endpoint, large), "the file is closed")


def open_files(endpoint: Endpoint, path: Path) -> list[str]:
    links = []
    for entry in Path(f"/proc/{endpoint.server.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since the folder was read
            links.append(os.readlink(entry))
    return [link for link in links if link == str(path)]


def test_no_descriptor_is_left_behind(endpoint: Endpoint, large: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{endpoint.server.pid}/fd"))

    endpoint.ask(get(f"/path-send?{large}"))
    before = descriptors()
    for _ in range(10):
        with endpoint.connect(receive_buffer=4096) as connection:
            connection.send(get(f"/path-send?{large}"))
            connection.sock.recv(1000)
    wait_until(lambda: descriptors() <= before, "all descriptors are closed")


def test_a_file_that_becomes_shorter_is_not_passed_off_as_whole(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    path = tmp_path / "shrinking"
    path.write_bytes(CONTENT * 200)
    with endpoint.connect(receive_buffer=4096) as connection:
        connection.send(get(f"/path-send?{path}"))
        assert connection.sock.recv(1000)
        os.truncate(path, 10)
        data = connection.rest()
    assert len(data) < 200 * len(CONTENT)
    wait_until(
        lambda: "became shorter while it was sent" in endpoint.server.stderr_text(), "it is logged"
    )


# Trailers and hints


def test_trailers(endpoint: Endpoint) -> None:
    with endpoint.connect() as connection:
        response = connection.ask(get("/trailers", "TE: trailers"))
        assert (response.body, response.trailers) == (b"data", [(b"x-sum", b"42")])
        response = connection.ask(get("/trailers"))
        assert (response.body, response.trailers) == (b"data", [])


def test_early_hints_arrive_before_the_response_is_made(endpoint: Endpoint) -> None:
    key = new_key()
    with endpoint.connect() as connection:
        connection.send(get(f"/hint/{key}"))
        connection.receive_exactly(
            b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n"
        )
        assert connection.is_silent()
        endpoint.open(key)
        assert connection.receive()[0].body == b"styled"


# Debug


@pytest.mark.parametrize("debug", [False, True])
def test_debug_is_offered_only_when_it_was_asked_for(debug: bool) -> None:
    with serve("--debug" if debug else "--no-debug", "--log-level", "debug") as endpoint:
        scope = endpoint.scope(get("/scope"))
        assert ("http.response.debug" in scope["extensions"]) is debug
        messages = [
            {"type": "http.response.debug", "info": {"template": "a.html"}},
            {"type": "http.response.start", "status": 200},
            {"type": "http.response.body", "body": "fine"},
        ]
        response = endpoint.ask(post("/script", json.dumps(messages).encode()), "POST")
        assert response.status == (200 if debug else 500)
        if debug:
            endpoint.wait_for_log("'template': 'a.html'")
        else:
            assert "'template': 'a.html'" not in endpoint.server.stderr_text()
        failed = endpoint.ask(get("/fail/before-head"))
        assert (b"ValueError: failing before-head" in failed.body) is debug


def test_an_interrupted_file_is_seen_to_be_incomplete(endpoint: Endpoint, tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"12345")
    data = endpoint.exchange(get(f"/wrong-length/10/5?{path}"))
    with pytest.raises(IncompleteResponse):
        parse_responses(data)
