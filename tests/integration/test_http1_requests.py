"""What the application is told about a request, and about who sent it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.integration.endpoint import Endpoint, get, post, serve
from tests.integration.responses import parse_response


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with serve() as endpoint:
        yield endpoint


def test_the_whole_scope(endpoint: Endpoint) -> None:
    with endpoint.connect() as connection:
        client = list(connection.sock.getsockname())
        connection.send(
            get(
                "/scope/%C3%A4%2F%20b?x=%20&y",
                "X-First: 1",
                "ACCEPT: a",
                "accept: b",
                "X-Latin: \xe9",
                "X-Empty:",
                "X-Spaces: \t a  b \t",
            )
        )
        response = connection.receive()[0]
        scope = response.body.decode()
    assert endpoint.scope(get("/scope"))["http_version"] == "1.1"
    assert json.loads(scope) == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "server": ["127.0.0.1", endpoint.server.port],
        "client": client,
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": "/scope/ä/ b",
        "raw_path": "/scope/%C3%A4%2F%20b",
        "query_string": "x=%20&y",
        "headers": [
            ["host", "localhost"],
            ["x-first", "1"],
            ["accept", "a"],
            ["accept", "b"],
            ["x-latin", "\xe9"],
            ["x-empty", ""],
            ["x-spaces", "a  b"],
        ],
        "state": {"started": True},
        "extensions": {
            "http.response.trailers": {},
            "http.response.pathsend": {},
            "http.response.zerocopysend": {},
            "http.response.early_hint": {},
        },
        "body": "",
    }


def test_http_1_0(endpoint: Endpoint) -> None:
    data = endpoint.exchange(b"GET /scope HTTP/1.0\r\n\r\n")
    response = parse_response(data)
    assert response.closes
    assert b'"http_version": "1.0"' in response.body
    assert b'"headers": []' in response.body


def test_http_1_0_with_keep_alive(endpoint: Endpoint) -> None:
    request = get("/", "Connection: keep-alive", version="1.0")
    with endpoint.connect() as connection:
        for _ in range(3):
            response = connection.ask(request)
            assert response.value(b"connection") == b"keep-alive"
        assert connection.ask(get("/", version="1.0")).closes
        assert connection.rest() == b""


def test_http_1_0_gets_a_stream_until_the_end_of_the_connection(endpoint: Endpoint) -> None:
    response = parse_response(endpoint.exchange(get("/stream/x/1", version="1.0")))
    assert (response.body, response.ends_with_connection) == (b"part 0\n", True)


def test_100_continue_is_not_for_http_1_0(endpoint: Endpoint) -> None:
    request = post("/echo", b"body", "Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
    response = parse_response(endpoint.exchange(request))
    assert (response.status, response.body) == (200, b"body")


def test_a_higher_minor_version_is_served_as_1_1(endpoint: Endpoint) -> None:
    assert endpoint.scope(get("/scope", version="1.7"))["http_version"] == "1.1"


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        ("http://example.org:8080/scope/a%20b?c", "/scope/a b", "c", "example.org:8080"),
        ("HTTPS://example.org/scope", "/scope", "", "example.org"),
        ("http://[::1]/scope?", "/scope", "", "[::1]"),
        ("/scope//x?a?b", "/scope//x", "a?b", "localhost"),
        ("/scope/%00%ff", "/scope/\x00\ufffd", "", "localhost"),
        ("/scope/../a/./b", "/scope/../a/./b", "", "localhost"),
        ('/scope?{"a"|b}^', "/scope", '{"a"|b}^', "localhost"),
    ],
)
def test_targets(endpoint: Endpoint, target: str, path: str, query: str, host: str) -> None:
    scope = endpoint.scope(get(target))
    assert (scope["path"], scope["query_string"]) == (path, query)
    assert [value for name, value in scope["headers"] if name == "host"] == [host]


def test_absolute_form_without_a_path(endpoint: Endpoint) -> None:
    assert endpoint.ask(get("http://example.org")).body == b"/"
    assert endpoint.ask(get("http://example.org?a=b")).body == b"/"


def test_asterisk_form(endpoint: Endpoint) -> None:
    with endpoint.connect() as connection:
        response = connection.ask(get("*", method="OPTIONS"))
        assert (response.status, response.body) == (200, b"*")
        assert connection.ask(get("/next")).body == b"/next"
    assert endpoint.ask(get("*")).status == 400


def test_connect(endpoint: Endpoint) -> None:
    request = b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n"
    with endpoint.connect() as connection:
        # The application answers; there is no tunnel, so what follows is not served.
        response = connection.ask(request + get("/never"), "GET")
        assert (response.status, response.body) == (200, b"example.org:443")
        assert response.closes
        assert connection.rest() == b""
    for target in (b"/", b"example.org", b"http://example.org/"):
        assert endpoint.ask(request.replace(b"example.org:443 ", target + b" ")).status == 400


def test_root_path() -> None:
    with serve("--root-path", "/bä se/") as endpoint:
        scope = endpoint.scope(get("/scope/a%20b"))
        assert scope["root_path"] == "/bä se"
        assert scope["path"] == "/bä se/scope/a b"
        assert scope["raw_path"] == "/b%C3%A4%20se/scope/a%20b"
        assert endpoint.ask(get("*", method="OPTIONS")).body == b"*"


# Proxies

FORWARDED = ("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https")


def seen(endpoint: Endpoint, *fields: str) -> tuple[str, object]:
    scope = endpoint.scope(get("/scope", *fields))
    return scope["scheme"], scope["client"]


def test_a_trusted_proxy_names_client_and_scheme(endpoint: Endpoint) -> None:
    assert seen(endpoint, *FORWARDED) == ("https", ["203.0.113.9", 0])
    assert seen(endpoint, "X-Forwarded-For: 203.0.113.9:4711") == ("http", ["203.0.113.9", 4711])
    assert seen(endpoint, "X-Forwarded-For: 2001:db8::1") == ("http", ["2001:db8::1", 0])
    assert seen(endpoint, "X-Forwarded-For: [2001:db8::1]:8")[1] == ["2001:db8::1", 8]


def test_only_what_trusted_proxies_added_counts(endpoint: Endpoint) -> None:
    chain = "X-Forwarded-For: 198.51.100.1, 203.0.113.9, 127.0.0.1"
    assert seen(endpoint, chain)[1] == ["203.0.113.9", 0]
    split = (
        "X-Forwarded-For: 198.51.100.1",
        "X-Forwarded-For: 203.0.113.9",
        "X-Forwarded-For: ::1",
    )
    assert seen(endpoint, *split)[1] == ["203.0.113.9", 0]
    assert seen(endpoint, "X-Forwarded-For: 127.0.0.1, ::1")[1] == ["127.0.0.1", 0]


def test_nonsense_from_a_proxy_is_ignored(endpoint: Endpoint) -> None:
    for field in ("X-Forwarded-For:", "X-Forwarded-For: ,", "X-Forwarded-Proto: gopher"):
        scheme, client = seen(endpoint, field)
        assert scheme == "http"
        assert isinstance(client, list)
        assert client[0] == "127.0.0.1"


def test_others_are_not_believed() -> None:
    with serve("--forwarded-allow-ips", "192.0.2.0/24") as endpoint:
        scheme, client = seen(endpoint, *FORWARDED)
        assert scheme == "http"
        assert isinstance(client, list)
        assert client[0] == "127.0.0.1"


def test_proxy_headers_can_be_switched_off() -> None:
    with serve("--no-proxy-headers", "--forwarded-allow-ips", "*") as endpoint:
        assert seen(endpoint, *FORWARDED)[0] == "http"


@pytest.mark.parametrize(("allowed", "believed"), [("unix", True), ("127.0.0.1", False)])
def test_a_proxy_behind_a_unix_socket(allowed: str, believed: bool) -> None:
    with serve("--forwarded-allow-ips", allowed, via="unix") as endpoint:
        expected = ("https", ["203.0.113.9", 0]) if believed else ("http", None)
        assert seen(endpoint, *FORWARDED) == expected
        scope = endpoint.scope(get("/scope"))
        assert scope["client"] is None
        assert scope["server"] == [endpoint.server.uds, None]


@pytest.mark.parametrize("host", ["::1", "0.0.0.0", "localhost"])
def test_the_server_address_is_the_one_that_the_client_used(host: str) -> None:
    with serve("--host", host) as endpoint:
        with endpoint.connect() as connection:
            peer, local = connection.sock.getpeername(), connection.sock.getsockname()
            connection.send(get("/scope"))
            body = connection.receive()[0].body
        scope = json.loads(body)
        assert scope["server"] == list(peer[:2])
        assert scope["client"] == list(local[:2])
