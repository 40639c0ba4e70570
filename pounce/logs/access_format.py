"""The format of the access log, compiled once into a function.

The atoms are gunicorn's (its setting `access_log_format`):

| atom | value |
|---|---|
| `h` | address of the client, `-` when there is none (Unix socket) |
| `l` | `-` |
| `u` | user name of HTTP Basic authentication, `-` without |
| `t` | local time at the end of the response, `[22/Nov/2026:18:00:00 +0000]` |
| `r` | request line: method, target as sent, `HTTP/` and version |
| `m` | method |
| `U` | path of the target as sent, without the query |
| `q` | query, without the question mark |
| `H` | protocol, `HTTP/1.1` |
| `s` | status |
| `B`, `b` | bytes of the response body; of none, `B` is `0` and `b` is `-` |
| `f`, `a` | request headers Referer and User-Agent |
| `T`, `M`, `D` | duration in whole seconds, milliseconds, microseconds |
| `L` | duration in seconds, with six decimals |
| `p` | process id in angle brackets |
| `{name}i`, `{name}o` | a request or response header; several of one name are joined by `, ` |
| `{name}e` | a variable of the server's environment, read when the format is compiled |

An atom is written `%(x)s`; a width (`%(h)-15s`) and, for numbers, `d` are possible. `%%` is a
percent sign. What is missing is `-`. Names in braces do not distinguish case.

The format `json` is one JSON object a line with the keys time (UTC, milliseconds), client,
method, path, query, protocol, status, bytes, duration_ms, referer, user_agent; what is missing
is null, and an absent query is empty.

No value can forge a line or end a quoted field: in the values every byte that is not printable
ASCII, the quotation mark and the backslash become `\\xHH`. Outside of quotes (`h`, `u`, `m`) so
does the space.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from json.encoder import encode_basestring_ascii
from typing import TypeAlias

from pounce.errors import ConfigError

DEFAULT_FORMAT = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

Entry: TypeAlias = tuple[
    float, float, tuple[str, int] | None, str, bytes, str, int, int, Headers, Headers, str
]
"""What one request leaves behind for the log: wall-clock time of its end (seconds), duration
(seconds), client (host, port), method, target as sent, HTTP version, status, bytes of the
response body, request headers (names in lower case), response headers, scheme."""

LineFormatter: TypeAlias = Callable[[Iterable[Entry]], list[str]]
"""Turns entries into lines, in order, without line ends."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_SAFE = bytes(range(0x20, 0x7F)).translate(None, b'"\\')
_SAFE_BARE = _SAFE.translate(None, b" ")
_ESCAPED = {byte: chr(byte) if byte in _SAFE else f"\\x{byte:02x}" for byte in range(256)}
_ESCAPED_BARE = {**_ESCAPED, 0x20: "\\x20"}


def _escape(raw: bytes) -> str:
    if not raw.translate(None, _SAFE):
        return raw.decode("ascii")
    return raw.decode("latin-1").translate(_ESCAPED)


def _escape_bare(raw: bytes) -> str:
    """`_escape` for a value outside of quotes, where a space would begin the next field."""
    if not raw.translate(None, _SAFE_BARE):
        return raw.decode("ascii")
    return raw.decode("latin-1").translate(_ESCAPED_BARE)


def _quote_json(raw: bytes) -> str:
    if not raw.translate(None, _SAFE):
        return f'"{raw.decode("ascii")}"'
    # JSON lets DEL stand as it is; a log does not.
    return encode_basestring_ascii(raw.decode("latin-1")).replace("\x7f", "\\u007f")


class _BytesCache(dict[bytes | None, str]):
    """Header values and what stands for them in the log; bounded in count and in size.

    Clients repeat themselves, so most lookups hit. When it is full it starts anew: that costs
    less than to keep an order of use.
    """

    MAX_ENTRIES = 1024
    MAX_LENGTH = 256

    def __init__(self, convert: Callable[[bytes], str], missing: str) -> None:
        super().__init__({None: missing})
        self._convert = convert
        self._missing = missing

    def __missing__(self, raw: bytes | None) -> str:
        if raw is None:
            return self._missing
        text = self._convert(raw)
        if len(raw) <= self.MAX_LENGTH:
            if len(self) >= self.MAX_ENTRIES:
                self.clear()
            self[raw] = text
        return text


class _TextCache(dict[str, str]):
    """The same for what the server holds as text: client addresses, methods, versions.

    Of a request that could not be read they are empty or `-`.
    """

    MAX_ENTRIES = 1024
    MAX_LENGTH = 64

    def __init__(self, convert: Callable[[bytes], str], missing: str, prefix: str = "") -> None:
        super().__init__()
        self._convert = convert
        self._missing = missing
        self._prefix = prefix

    def __missing__(self, value: str) -> str:
        if value in ("", "-"):
            return self._missing
        text = self._convert((self._prefix + value).encode("utf-8", "surrogateescape"))
        if len(value) <= self.MAX_LENGTH:
            if len(self) >= self.MAX_ENTRIES:
                self.clear()
            self[value] = text
        return text


def _join_headers(headers: Headers) -> dict[bytes, bytes]:
    """Header fields by name in lower case; several of one name joined (RFC 9110 section 5.3)."""
    joined: dict[bytes, bytes] = {}
    for name, value in headers:
        key = name.lower()
        joined[key] = joined[key] + b", " + value if key in joined else value
    return joined


def _path_of(target: bytes) -> bytes:
    """Path of a target without its query; absolute-form has more (RFC 9112 section 3.2.2)."""
    scheme_end = target.find(b"://")
    if scheme_end <= 0:
        return target
    slash = target.find(b"/", scheme_end + 3)
    return target[slash:] if slash > 0 else b"/"


def _basic_user(authorization: bytes) -> str:
    """The user name of Basic credentials (RFC 7617 section 2), `-` when there is none."""
    scheme, _, credentials = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return "-"
    try:
        user, colon, _ = base64.b64decode(credentials.strip(), validate=True).partition(b":")
    except binascii.Error:
        return "-"
    return (_escape_bare(user) or "-") if colon else "-"


def _apache_time(second: int) -> str:
    local = time.localtime(second)
    sign = "-" if local.tm_gmtoff < 0 else "+"
    offset = abs(local.tm_gmtoff) // 60
    return (
        f"[{local.tm_mday:02d}/{_MONTHS[local.tm_mon - 1]}/{local.tm_year}"
        f":{local.tm_hour:02d}:{local.tm_min:02d}:{local.tm_sec:02d}"
        f" {sign}{offset // 60:02d}{offset % 60:02d}]"
    )


def _iso_time(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


# What an atom's expression needs computed before it, one statement each, in this order.
_STATEMENTS = {
    "second": (
        "second = int(end)",
        "if second != stamped:",
        "    stamped = second",
        "    stamp = format_time(second)",
    ),
    "microseconds": ("microseconds = int(duration * 1e6 + 0.5)",),
    "sent": (
        "sent = dict(request_headers)",
        "if len(sent) != len(request_headers):",
        "    sent = join_headers(request_headers)",
    ),
    "answered": ("answered = join_headers(response_headers)",),
    "split": (
        "path, _, query = target.partition(b'?')",
        "if path[:1] != b'/':",
        "    path = path_of(path)",
    ),
}

_CLIENT = "address[client[0]] if client else '-'"
_REQUEST_LINE = "bare[method] + ' ' + escape(target) + ' ' + protocol[version] if target else '-'"
_USER = "'-' if b'authorization' not in sent else basic_user(sent[b'authorization'])"

# atom -> (expression, what it needs, whether it is always a number)
_ATOMS: dict[str, tuple[str, str | None, bool]] = {
    "h": (_CLIENT, None, False),
    "l": ("'-'", None, False),
    "u": (_USER, "sent", False),
    "t": ("stamp", "second", False),
    "r": (_REQUEST_LINE, None, False),
    "m": ("bare[method]", None, False),
    "U": ("escape(path)", "split", False),
    "q": ("escape(query)", "split", False),
    "H": ("protocol[version]", None, False),
    "s": ("status", None, True),
    "B": ("size", None, True),
    "b": ("size or '-'", None, False),
    "f": ("text[sent.get(b'referer')]", "sent", False),
    "a": ("text[sent.get(b'user-agent')]", "sent", False),
    "T": ("microseconds // 1000000", "microseconds", True),
    "M": ("microseconds // 1000", "microseconds", True),
    "D": ("microseconds", "microseconds", True),
    "L": ("f'{microseconds // 1000000}.{microseconds % 1000000:06d}'", "microseconds", False),
    "p": ("pid", None, False),
}

_JSON_TEMPLATE = (
    '{"time":"%s.%03dZ","client":%s,"method":%s,"path":%s,"query":%s,"protocol":%s,'
    '"status":%s,"bytes":%s,"duration_ms":%s,"referer":%s,"user_agent":%s}'
)
_JSON_NEEDS = {"second", "microseconds", "sent", "split"}
_JSON_EXPRESSIONS = [
    "stamp",
    "int((end - second) * 1000)",
    "address[client[0]] if client else 'null'",
    "bare[method]",
    "quote(path) if target else 'null'",
    "quote(query)",
    "protocol[version]",
    "status",
    "size",
    "microseconds / 1000",
    "text[sent.get(b'referer')]",
    "text[sent.get(b'user-agent')]",
]

_DIRECTIVE = re.compile(
    r"%(?:(?P<percent>%)|\((?P<atom>[^()]*)\)(?P<spec>-?\d{0,4})(?P<type>[a-zA-Z]))?"
)
_NAMED_ATOM = re.compile(r"\{(?P<name>[^{}]+)\}(?P<kind>[ioe])")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def validate_format(fmt: str) -> None:
    """Check that `fmt` is `json` or made of known atoms.

    Raises:
        ConfigError: it is empty, has line ends or other control characters, has no atom at all,
            or a `%` in it is not followed by a known atom.
    """
    if fmt != "json":
        _parse(fmt)


def compile_format(fmt: str) -> LineFormatter:
    """Make the function that formats entries as `fmt` says.

    The function keeps caches and is to be called by one thread at a time.

    Raises:
        ConfigError: as `validate_format`.
    """
    if fmt == "json":
        template, expressions, needs = _JSON_TEMPLATE, _JSON_EXPRESSIONS, _JSON_NEEDS
        names = {
            "format_time": _iso_time,
            "text": _BytesCache(_quote_json, "null"),
            "quote": _quote_json,
            "address": _TextCache(_quote_json, "null"),
            "bare": _TextCache(_quote_json, "null"),
            "protocol": _TextCache(_quote_json, "null", "HTTP/"),
        }
    else:
        template, expressions, needs = _parse(fmt)
        names = {
            "format_time": _apache_time,
            "text": _BytesCache(_escape, "-"),
            "escape": _escape,
            "address": _TextCache(_escape_bare, "-"),
            "bare": _TextCache(_escape_bare, "-"),
            "protocol": _TextCache(_escape_bare, "-", "HTTP/"),
        }
    statements = [line for key, lines in _STATEMENTS.items() if key in needs for line in lines]
    source = "\n".join(
        (
            "def format_lines(entries):",
            "    lines = []",
            "    append = lines.append",
            "    stamped = stamp = None",
            "    pid = f'<{getpid()}>'",
            "    for (end, duration, client, method, target, version, status, size,",
            "         request_headers, response_headers, scheme) in entries:",
            *(f"        {line}" for line in statements),
            # CPython compiles a constant % (a, b, ...) like an f-string.
            f"        append({template!r} % ({''.join(f'{e}, ' for e in expressions)}))",
            "    return lines",
        )
    )
    namespace: dict[str, object] = {
        **names,
        "getpid": os.getpid,
        "basic_user": _basic_user,
        "join_headers": _join_headers,
        "path_of": _path_of,
    }
    # The source holds nothing of `fmt` but what repr() made a literal.
    exec(compile(source, "<access log format>", "exec"), namespace)
    format_lines: LineFormatter = namespace["format_lines"]  # type: ignore[assignment]
    return format_lines


def _parse(fmt: str) -> tuple[str, list[str], set[str]]:
    """The %-template, the expression of each of its places, and what they need."""
    if _CONTROL.search(fmt):
        raise ConfigError("access_log_format: must be one line without control characters")
    expressions: list[str] = []
    needs: set[str] = set()

    def place(directive: re.Match[str]) -> str:
        if directive["percent"]:
            return "%%"
        if directive["atom"] is None:
            found = fmt[directive.start() : directive.start() + 8]
            raise ConfigError(
                f"access_log_format: {found!r} begins no atom; "
                "an atom is written %(h)s, a percent sign %%"
            )
        expression, need, is_number = _atom(directive["atom"])
        if directive["type"] not in ("sd" if is_number else "s"):
            raise ConfigError(f"access_log_format: {directive[0]!r} must end in s")
        expressions.append(expression)
        if need is not None:
            needs.add(need)
        return f"%{directive['spec']}{directive['type']}"

    template = _DIRECTIVE.sub(place, fmt)
    if not expressions:
        raise ConfigError(
            f"access_log_format: {fmt!r} has no atom such as %(h)s, and is not 'json'"
        )
    return template, expressions, needs


def _atom(atom: str) -> tuple[str, str | None, bool]:
    if atom in _ATOMS:
        return _ATOMS[atom]
    named = _NAMED_ATOM.fullmatch(atom)
    if named is None:
        raise ConfigError(
            f"access_log_format: unknown atom %({atom})s; known are "
            f"{' '.join(_ATOMS)} {{header}}i {{header}}o {{variable}}e"
        )
    name = named["name"].lower()
    if named["kind"] == "e":
        environ = {key.lower(): value for key, value in os.environ.items()}
        value = environ.get(name)
        return repr("-" if value is None else _escape(os.fsencode(value))), None, False
    key = name.encode("latin-1", "replace")
    if named["kind"] == "i":
        return f"text[sent.get({key!r})]", "sent", False
    return f"text[answered.get({key!r})]", "answered", False
