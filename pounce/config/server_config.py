"""The configuration of the server.

`ServerConfig` declares every option once. From that declaration come the checks, the flags of the
command, the `POUNCE_*` variables, the keys of the file and the reference page.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from pounce.config import checks
from pounce.config.kinds import (
    Choice,
    Duration,
    Either,
    FileMode,
    Flag,
    Integer,
    Optional,
    Repeated,
    Size,
    Text,
)
from pounce.config.options import Group, Option, collect_options, option
from pounce.config.sources import collect_settings
from pounce.errors import ConfigError
from pounce.logs.access_format import DEFAULT_FORMAT
from pounce.runtime import available_cpus

MAX_WORKERS: Final = 1024
MAX_WINDOW: Final = 2**31 - 1
"""Of HTTP/2 (RFC 9113 section 6.9.1)."""

_DEVELOPMENT_PATHS: Final = Repeated(
    Text("PATH", label="path", check=checks.check_not_empty, path=True), separator=","
)
_DEVELOPMENT_PATTERNS: Final = Repeated(
    Text("PATTERN", label="pattern", check=checks.check_not_empty), separator=","
)
_OPTIONAL_PATH: Final = Optional(Text("PATH", label="path", path=True), none="")
_OPTIONAL_TEXT: Final = Optional(Text(), none="")
_VERIFY: Final = {"0": "none", "1": "optional", "2": "required"}


@functools.cache
def is_installed(package: str) -> bool:
    """Looked for once: that opens folders, and a reload shall not need a descriptor for it."""
    return find_spec(package) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything that can be set. Immutable; `dataclasses.replace` makes a changed copy.

    Values are checked and brought to their type when the object is made: durations and sizes may
    be given with units (`timeout_keep_alive="30s"`), lists become tuples.

    Raises:
        ConfigError: Values are not accepted or contradict each other; one line for each fault.
    """

    host: str = option(
        "127.0.0.1",
        Text("HOST", label="name or address", check=checks.check_host),
        Group.LISTENING,
        "Name or address to listen on; 0.0.0.0 or :: for all.",
    )
    port: int = option(
        8000, Integer(0, 65535), Group.LISTENING, "TCP port to listen on; 0 takes a free one."
    )
    uds: str | None = option(
        None,
        _OPTIONAL_PATH,
        Group.LISTENING,
        "Path of a Unix socket to listen on, in place of host and port.",
    )
    uds_permissions: int = option(
        0o666, FileMode(), Group.LISTENING, "File mode of Unix sockets, in octal."
    )
    uds_owner: str | None = option(
        None,
        Optional(Text("USER[:GROUP]", label="USER, USER:GROUP or :GROUP"), none=""),
        Group.LISTENING,
        "Owner of the files of Unix sockets, by name or number; needs the right to give them away.",
    )
    fd: int | None = option(
        None,
        Optional(Integer(0), none="none"),
        Group.LISTENING,
        "Listen on the inherited socket with this file descriptor, in place of host and port.",
    )
    bind: tuple[str, ...] = option(
        (),
        Repeated(Text("ADDRESS", label="address", check=checks.check_address), separator=","),
        Group.LISTENING,
        "HOST:PORT, [IPV6]:PORT, unix:PATH or fd://NUMBER to listen on, in place of host and port; "
        "repeatable.",
    )
    backlog: int = option(
        2048, Integer(1), Group.LISTENING, "Connections that may wait to be accepted."
    )

    factory: bool = option(
        False,
        Flag(),
        Group.APPLICATION,
        "The import string names a function without arguments that returns the application.",
    )
    app_dir: str = option(
        ".",
        Text("PATH", label="path", check=checks.check_not_empty, path=True),
        Group.APPLICATION,
        "Directory that the application is imported from; goes first on sys.path.",
    )
    root_path: str = option(
        "",
        Text("PATH", label="path from the root", check=checks.check_root_path),
        Group.APPLICATION,
        "URL path under which the application is mounted (ASGI root_path).",
    )
    lifespan: Literal["auto", "on", "off", "main"] = option(
        "auto",
        Choice("auto", "on", "off", "main"),
        Group.APPLICATION,
        "ASGI lifespan: on requires it, off leaves it out, auto does without it where the "
        "application does not support it, main runs it once in the main process.",
    )

    workers: int | Literal["auto"] = option(
        1,
        Either("auto", Integer(1, MAX_WORKERS)),
        Group.WORKERS,
        "Number of workers; auto takes the CPUs that affinity and cgroup quota leave.",
        fallback_env="WEB_CONCURRENCY",
    )
    worker_mode: Literal["auto", "process", "thread"] = option(
        "auto",
        Choice("auto", "process", "thread"),
        Group.WORKERS,
        "What the workers under a master are; auto takes threads on a free-threaded Python whose "
        "GIL is off, else processes.",
    )
    supervise: bool = option(
        False,
        Flag(),
        Group.WORKERS,
        "Run a master process also for one worker; more workers always have one.",
    )
    max_requests: int = option(
        0,
        Integer(0),
        Group.WORKERS,
        "Requests after which a worker is replaced; 0 for never.",
    )
    max_requests_jitter: int = option(
        0,
        Integer(0),
        Group.WORKERS,
        "Up to so many requests more, drawn for each worker.",
    )
    max_lifetime: float = option(
        0.0,
        Duration(zero="never"),
        Group.WORKERS,
        "Time after which a worker is replaced; 0 for never.",
    )
    max_lifetime_jitter: float = option(
        0.0,
        Duration(zero="none"),
        Group.WORKERS,
        "Up to so much longer, drawn for each worker.",
    )
    max_concurrent_replacements: int = option(
        1,
        Integer(1),
        Group.WORKERS,
        "Workers that may be starting at once to replace others.",
    )
    socket_strategy: Literal["auto", "reuseport", "shared"] = option(
        "auto",
        Choice("auto", "reuseport", "shared"),
        Group.WORKERS,
        "A listening socket per worker (reuseport, Linux) or one for all; auto takes reuseport "
        "where it can.",
    )
    control_socket: str = option(
        "auto",
        Text("PATH", label="path, auto or off", path=True),
        Group.WORKERS,
        "Unix socket for `pounce ctl`; auto for a private place where it is found, off for none.",
    )
    pidfile: str | None = option(
        None,
        _OPTIONAL_PATH,
        Group.WORKERS,
        "File that holds the process id of the server while it runs.",
    )
    user: str | None = option(
        None,
        Optional(Text("USER", label="user name or number"), none=""),
        Group.WORKERS,
        "User that the workers run as; needs a start as root, who then binds and supervises.",
    )
    group: str | None = option(
        None,
        Optional(Text("GROUP", label="group name or number"), none=""),
        Group.WORKERS,
        "Group that the workers run as; without it, the main group of the user.",
    )
    umask: int | None = option(
        None,
        Optional(FileMode(), none=""),
        Group.WORKERS,
        "Permissions that new files do not get, in octal; without it, what the server is "
        "started with.",
    )
    loop: Literal["auto", "uvloop", "asyncio"] = option(
        "auto",
        Choice("auto", "uvloop", "asyncio"),
        Group.WORKERS,
        "Event loop; auto takes uvloop where it is installed and does not turn the GIL on.",
    )

    max_rss: int = option(
        0,
        Size(0, zero="no limit"),
        Group.HEALTH,
        "Resident memory above which a worker is replaced; 0 for no limit.",
    )
    max_rss_growth: int = option(
        0,
        Size(0, zero="no limit"),
        Group.HEALTH,
        "The same above what the worker had when it had settled.",
    )
    rss_settle_time: float = option(
        60.0,
        Duration(zero="at once"),
        Group.HEALTH,
        "Time that a ready worker has to reach its usual memory, which max_rss_growth goes by.",
    )
    worker_stall_timeout: float = option(
        30.0,
        Duration(zero="never"),
        Group.HEALTH,
        "Time for which a worker's event loop may be blocked; then the worker is killed and "
        "replaced. With a master; 0 for never.",
    )
    max_error_rate: int = option(
        0,
        Integer(0, 100),
        Group.HEALTH,
        "Percent of its responses with a status of 5xx above which a worker is replaced; 0 for "
        "never.",
    )
    error_rate_window: float = option(
        60.0, Duration(), Group.HEALTH, "Time over which max_error_rate is measured."
    )
    error_rate_min_requests: int = option(
        50,
        Integer(1),
        Group.HEALTH,
        "Responses within that time below which max_error_rate does not apply.",
    )
    max_open_fds: int = option(
        0,
        Integer(0, 100),
        Group.HEALTH,
        "Percent of its limit of open files above which a worker is replaced; 0 for never.",
    )
    max_stuck_threads: int = option(
        0,
        Integer(0),
        Group.HEALTH,
        "Stuck threads of synchronous work with which a worker is replaced; 0 for never.",
    )
    thread_stall_timeout: float = option(
        60.0,
        Duration(zero="never"),
        Group.HEALTH,
        "Time in one call after which a thread of synchronous work counts as stuck; 0 for never.",
    )
    max_health_recycles: int = option(
        0,
        Integer(0),
        Group.HEALTH,
        "Workers that may be replaced within a minute for the reasons above; 0 for as many as "
        "there are.",
    )

    reload: bool = option(
        False, Flag(), Group.DEVELOPMENT, "Restart when source files change. Not for production."
    )
    reload_dirs: tuple[str, ...] = option(
        (),
        _DEVELOPMENT_PATHS,
        Group.DEVELOPMENT,
        "Directory to watch; repeatable. Without one, the working directory.",
        flag="--reload-dir",
    )
    reload_includes: tuple[str, ...] = option(
        (),
        _DEVELOPMENT_PATTERNS,
        Group.DEVELOPMENT,
        "Glob pattern of files to watch besides *.py; repeatable.",
        flag="--reload-include",
    )
    reload_excludes: tuple[str, ...] = option(
        (),
        _DEVELOPMENT_PATTERNS,
        Group.DEVELOPMENT,
        "Glob pattern of files or directories not to watch; repeatable.",
        flag="--reload-exclude",
    )
    reload_delay: float = option(
        0.25,
        Duration(zero="no pause"),
        Group.DEVELOPMENT,
        "Time between two looks at the watched files.",
    )
    debug: bool = option(
        False,
        Flag(),
        Group.DEVELOPMENT,
        "Offer the ASGI extension http.response.debug and log more detail.",
    )

    log_level: Literal["critical", "error", "warning", "info", "debug", "trace"] = option(
        "info",
        Choice(
            "critical",
            "error",
            "warning",
            "info",
            "debug",
            "trace",
            aliases={"warn": "warning", "fatal": "critical"},
        ),
        Group.LOGGING,
        "Least severity that is logged.",
    )
    log_format: Literal["auto", "text", "json"] = option(
        "auto",
        Choice("auto", "text", "json"),
        Group.LOGGING,
        "Text for people, or one JSON object a line; auto is text.",
    )
    log_config: str | None = option(
        None,
        _OPTIONAL_PATH,
        Group.LOGGING,
        "File that configures logging: dictConfig as .json or .toml, fileConfig as .ini.",
    )
    use_colors: bool | None = option(
        None,
        Optional(Flag(), none="auto"),
        Group.LOGGING,
        "Colors in the log; by default, when stderr is a terminal.",
    )
    access_log: bool = option(True, Flag(), Group.LOGGING, "Log every request.")
    access_log_file: str = option(
        "-",
        Text("PATH", label="path", check=checks.check_not_empty, path=True),
        Group.LOGGING,
        "File to append the access log to; - is stderr.",
    )
    access_log_format: str = option(
        DEFAULT_FORMAT,
        Text("FORMAT", label="atoms or json", check=checks.check_access_log_format),
        Group.LOGGING,
        "Format of the access log: Apache atoms as gunicorn takes them, or json.",
    )

    limit_request_line: int = option(
        8190, Size(), Group.LIMITS, "Longest request line; a longer one is answered 414."
    )
    limit_request_fields: int = option(
        100, Integer(1), Group.LIMITS, "Most header fields of a request; more are answered 431."
    )
    limit_request_head: int = option(
        64 * 1024, Size(), Group.LIMITS, "Most bytes in all header fields; more are answered 431."
    )
    limit_request_body: int = option(
        100 * 1024 * 1024,
        Size(zero="no limit"),
        Group.LIMITS,
        "Largest request body; a larger one is answered 413.",
    )
    limit_request_body_rate: int = option(
        240,
        Size(zero="no limit"),
        Group.LIMITS,
        "Least bytes per second, on average and after 10 s, with which a request body must arrive; "
        "slower ones are answered 408.",
    )
    limit_concurrency: int | None = option(
        10_000,
        Optional(Integer(1), none="none"),
        Group.LIMITS,
        "Most requests in progress in one worker; more are answered 503 with Retry-After.",
    )
    limit_keep_alive_requests: int = option(
        10_000,
        Integer(0),
        Group.LIMITS,
        "Most requests on one connection, after which it closes; 0 = no limit.",
    )

    timeout_first_byte: float = option(
        10.0, Duration(), Group.TIMEOUTS, "Longest wait for the first byte on a new connection."
    )
    timeout_request_head: float = option(
        10.0,
        Duration(),
        Group.TIMEOUTS,
        "Longest time from the first byte of a request to the end of its head; then 408.",
    )
    timeout_request_body: float = option(
        30.0,
        Duration(),
        Group.TIMEOUTS,
        "Longest gap between two reads of a request body; then 408.",
    )
    timeout_keep_alive: float = option(
        5.0, Duration(), Group.TIMEOUTS, "Longest idle time between two requests of a connection."
    )
    timeout_write: float = option(
        30.0,
        Duration(),
        Group.TIMEOUTS,
        "Longest time without progress of a write; then the connection is cut.",
    )
    timeout_tls_handshake: float = option(
        10.0, Duration(), Group.TIMEOUTS, "Longest TLS handshake."
    )
    timeout_graceful_shutdown: float = option(
        30.0,
        Duration(),
        Group.TIMEOUTS,
        "Longest wait for requests in progress when the server stops.",
    )

    timeout_worker_boot: float = option(
        60.0,
        Duration(),
        Group.TIMEOUTS,
        "Longest time from the start of a worker until it is ready.",
    )
    shutdown_delay: float = option(
        0.0,
        Duration(zero="none"),
        Group.TIMEOUTS,
        "How long workers go on accepting after a stop was asked for.",
    )

    ssl_keyfile: str | None = option(
        None,
        _OPTIONAL_PATH,
        Group.TLS,
        "Private key (PEM); without it, the key is in the certificate file.",
    )
    ssl_certfile: str | None = option(
        None, _OPTIONAL_PATH, Group.TLS, "Certificate and its chain (PEM); turns TLS on."
    )
    ssl_keyfile_password: str | None = option(
        None,
        _OPTIONAL_TEXT,
        Group.TLS,
        "Password of the private key; a variable hides it better than the command line.",
        secret=True,
    )
    ssl_ca_certs: str | None = option(
        None, _OPTIONAL_PATH, Group.TLS, "CA certificates (PEM) that client certificates need."
    )
    ssl_ciphers: str | None = option(
        None, _OPTIONAL_TEXT, Group.TLS, "Cipher suites of TLS 1.2, in OpenSSL's notation."
    )
    ssl_cert_reqs: Literal["none", "optional", "required"] = option(
        "none",
        Choice("none", "optional", "required", aliases=_VERIFY),
        Group.TLS,
        "Whether clients must show a certificate; also 0, 1, 2 as in Python's ssl module.",
    )
    ssl_minimum_version: Literal["1.2", "1.3"] = option(
        "1.2", Choice("1.2", "1.3"), Group.TLS, "Lowest version of TLS."
    )
    ssl_sni_certs: tuple[str, ...] = option(
        (),
        Repeated(checks.SNICertificate(), separator="\n"),
        Group.TLS,
        "Certificate for one host name, which may begin with '*.'; repeatable.",
        flag="--ssl-sni-cert",
    )
    ssl_refresh_interval: float = option(
        10.0,
        Duration(zero="never"),
        Group.TLS,
        "How often to look whether certificate files changed.",
    )

    server_header: bool = option(True, Flag(), Group.HTTP, "Send the header Server.")
    date_header: bool = option(True, Flag(), Group.HTTP, "Send the header Date.")
    headers: tuple[tuple[str, str], ...] = option(
        (),
        Repeated(checks.HeaderField(), separator="\n"),
        Group.HTTP,
        "Header to add to every response; repeatable.",
        flag="--header",
    )

    http2: bool | None = option(
        None,
        Optional(Flag(), none="auto"),
        Group.HTTP2,
        "Offer HTTP/2 over TLS; by default, where pounce[h2] is installed.",
    )
    http2_cleartext: bool = option(
        False,
        Flag(),
        Group.HTTP2,
        "Take HTTP/2 without TLS from clients that begin with it (prior knowledge).",
    )
    http2_engine: Literal["native", "h2"] = option(
        "native",
        Choice("native", "h2"),
        Group.HTTP2,
        "What speaks HTTP/2: Pounce's own engine, or the h2 library.",
    )
    http2_max_concurrent_streams: int = option(
        128,
        Integer(1),
        Group.HTTP2,
        "Most requests in progress on one connection; more are refused, and may be tried again.",
    )
    http2_max_header_list_size: int = option(
        64 * 1024,
        Size(),
        Group.HTTP2,
        "Most bytes in all header fields, each counting 32 more; more are answered 431.",
    )
    http2_header_table_size: int = option(
        4096,
        Size(0),
        Group.HTTP2,
        "Memory for the header compression of a client, for each connection.",
    )
    http2_stream_window: int = option(
        1024 * 1024,
        Size(1, MAX_WINDOW),
        Group.HTTP2,
        "Most bytes of one request body that may wait for the application.",
    )
    http2_connection_window: int = option(
        2 * 1024 * 1024,
        Size(65535, MAX_WINDOW),
        Group.HTTP2,
        "Most bytes of all request bodies of one connection that may wait for the application.",
    )
    http2_max_frame_size: int = option(
        16384, Size(16384, 16777215), Group.HTTP2, "Largest frame that is taken."
    )
    http2_max_resets: int = option(
        200,
        Integer(1),
        Group.HTTP2,
        "Streams that may be given up before they are answered, within http2_rate_window; more end "
        "the connection.",
    )
    http2_max_control_frames: int = option(
        1000,
        Integer(1),
        Group.HTTP2,
        "PING, SETTINGS, PRIORITY_UPDATE and unknown frames within http2_rate_window, and "
        "WINDOW_UPDATE frames that answer nothing; more end the connection.",
    )
    http2_max_empty_frames: int = option(
        1000,
        Integer(1),
        Group.HTTP2,
        "DATA frames without content within http2_rate_window; more end the connection.",
    )
    http2_max_continuations: int = option(
        16,
        Integer(1),
        Group.HTTP2,
        "CONTINUATION frames of one head; more end the connection.",
    )
    http2_rate_window: float = option(
        10.0, Duration(), Group.HTTP2, "Time within which such frames are counted."
    )
    http2_ping_interval: float = option(
        0.0,
        Duration(zero="never"),
        Group.HTTP2,
        "Silence of a client with requests in progress after which it is asked if it is there; "
        "after as much again it is given up. 0 for never.",
    )

    ws: Literal["auto", "on", "none"] = option(
        "auto",
        Choice(
            "auto",
            "on",
            "none",
            aliases={
                "off": "none",
                "websockets": "on",
                "websockets-sansio": "on",
                "wsproto": "on",
            },
        ),
        Group.WEBSOCKET,
        "WebSockets: auto serves them where pounce[ws] is installed, on insists on it.",
    )
    ws_max_size: int = option(
        16 * 1024 * 1024,
        Size(),
        Group.WEBSOCKET,
        "Largest message, after decompression; a larger one closes with 1009.",
    )
    ws_max_frame_size: int = option(
        0,
        Size(zero="as large as a message"),
        Group.WEBSOCKET,
        "Largest payload of a frame; a larger one closes with 1009.",
    )
    ws_max_queue: int = option(
        32,
        Integer(1),
        Group.WEBSOCKET,
        "Messages that may wait for the application before the client has to.",
    )
    ws_ping_interval: float | None = option(
        20.0,
        Optional(Duration(zero="never"), none="none"),
        Group.WEBSOCKET,
        "Silence of a client after which it is sent a ping; 0 for never.",
    )
    ws_ping_timeout: float | None = option(
        20.0,
        Optional(Duration(zero="no limit"), none="none"),
        Group.WEBSOCKET,
        "Longest wait for a sign of life after a ping; then the connection is cut.",
    )
    ws_open_timeout: float = option(
        10.0,
        Duration(),
        Group.WEBSOCKET,
        "Longest time until the application accepts or refuses; then 504.",
    )
    ws_idle_timeout: float = option(
        0.0,
        Duration(zero="no limit"),
        Group.WEBSOCKET,
        "Longest time without a message in either direction; then it is closed.",
    )
    ws_close_timeout: float = option(
        10.0,
        Duration(),
        Group.WEBSOCKET,
        "Longest wait for the client's close frame; then the connection is cut.",
    )
    ws_per_message_deflate: bool = option(
        True, Flag(), Group.WEBSOCKET, "Compress messages with clients that offer it (RFC 7692)."
    )
    ws_deflate_window_bits: int = option(
        12,
        Integer(9, 15),
        Group.WEBSOCKET,
        "Window of the compression in both directions, as a power of two; each connection costs up "
        "to 10 times that.",
    )
    ws_deflate_takeover: bool = option(
        True,
        Flag(),
        Group.WEBSOCKET,
        "Compress messages with reference to those before, which needs memory between them.",
    )

    metrics: bool = option(
        False,
        Flag(),
        Group.METRICS,
        "Answer Prometheus on the application's port, from any worker for all of them.",
    )
    metrics_bind: str | None = option(
        None,
        Optional(Text("ADDRESS", label="address", check=checks.check_address), none=""),
        Group.METRICS,
        "Address of the master's own server for /metrics, /healthz, /readyz and /status, which "
        "answers while every worker is stuck.",
    )
    metrics_path: str = option(
        "/metrics",
        Text("PATH", label="path from the root", check=checks.check_metrics_path),
        Group.METRICS,
        "URL path of the metrics, which the application then does not see.",
    )
    metrics_allow: str = option(
        "127.0.0.0/8,::1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7,169.254.0.0/16,"
        "fe80::/10,unix",
        Text("LIST", label="comma-separated list", check=checks.check_networks),
        Group.METRICS,
        "Peers that may ask for metrics: addresses, networks, unix, or * for all; by default "
        "loopback, private and link-local ones.",
    )

    proxy_headers: bool = option(
        True,
        Flag(),
        Group.PROXIES,
        "Believe X-Forwarded-For and X-Forwarded-Proto of trusted proxies.",
    )
    forwarded_allow_ips: str = option(
        "127.0.0.1,::1",
        Text("LIST", label="comma-separated list", check=checks.check_networks),
        Group.PROXIES,
        "Proxies to trust: addresses, networks (10.0.0.0/8), unix, or * for all.",
        fallback_env="FORWARDED_ALLOW_IPS",
    )

    def __post_init__(self) -> None:
        faults = []
        for name, entry in OPTIONS.items():
            try:
                value = entry.parse(getattr(self, name), label=name)
            except ValueError as error:
                faults.append(str(error))
            else:
                object.__setattr__(self, name, value)
        if faults := faults or self._contradictions():
            raise ConfigError("\n".join(faults))

    def _contradictions(self) -> list[str]:
        faults = []
        if self.uds is not None and self.fd is not None:
            faults.append("uds and fd exclude each other")
        if self.bind:
            faults += [
                f"bind and {name} exclude each other"
                for name in ("host", "port", "uds", "fd")
                if getattr(self, name) != OPTIONS[name].default
            ]
        if self.reload and (self.user is not None or self.group is not None):
            faults.append("reload runs as who starts it: it excludes user and group")
        if self.reload and self.metrics_bind is not None:
            faults.append("reload runs without a master: it excludes metrics_bind")
        if self.user is not None or self.group is not None:
            # Threads, and what the master does, would have other rights than the workers.
            faults += [
                f"{name} {value} runs the application in the main process: it excludes user and "
                "group"
                for name, value in (("worker_mode", "thread"), ("lifespan", "main"))
                if getattr(self, name) == value
            ]
        if not is_installed("h2"):
            faults += [
                f"{name} needs more packages: pip install 'pounce[h2]'"
                for name in ("http2", "http2_cleartext")
                if getattr(self, name)
            ]
        if self.ws == "on" and not self.serves_websockets:
            faults.append("ws needs more packages: pip install 'pounce[ws]'")
        if self.max_stuck_threads and not self.thread_stall_timeout:
            faults.append("max_stuck_threads needs thread_stall_timeout")
        if self.ssl_certfile is None:
            needing = [
                name
                for name in (
                    "ssl_keyfile",
                    "ssl_keyfile_password",
                    "ssl_ca_certs",
                    "ssl_ciphers",
                    "ssl_cert_reqs",
                    "ssl_sni_certs",
                )
                if getattr(self, name) != OPTIONS[name].default
            ]
            faults += [f"{name} needs ssl_certfile" for name in needing]
        elif self.ssl_cert_reqs != "none" and self.ssl_ca_certs is None:
            faults.append(f"ssl_cert_reqs {self.ssl_cert_reqs} needs ssl_ca_certs")
        return faults

    @classmethod
    def load(
        cls,
        cli: Mapping[str, object] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        file: Path | None = None,
    ) -> ServerConfig:
        """Build the configuration from its layers; see `resolve_config`, which also tells where
        each value came from. Unknown `POUNCE_*` variables are logged as warnings."""
        resolved = resolve_config(cli, env=env, file=file)
        for warning in resolved.warnings:
            logging.getLogger("pounce").warning(warning)
        return resolved.config

    @property
    def is_supervised(self) -> bool:
        """Whether a master process is needed."""
        return bool(
            self.supervise
            or self.max_requests
            or self.max_lifetime
            or self.max_rss
            or self.max_rss_growth
            or self.max_error_rate
            or self.max_open_fds
            or self.max_stuck_threads
            or self.shutdown_delay
            or self.metrics_bind is not None
            or self.user is not None
            or self.group is not None
            or self.resolve_workers() > 1
        )

    @property
    def is_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.ssl_certfile is not None

    @property
    def offers_http2(self) -> bool:
        """Whether TLS clients may choose HTTP/2."""
        return self.is_tls and self.http2 is not False and is_installed("h2")

    @property
    def serves_websockets(self) -> bool:
        """Whether clients that ask for a WebSocket may have one."""
        return self.ws != "none" and is_installed("websockets")

    def resolve_workers(self) -> int:
        """The number of workers, with `auto` turned into the CPUs that this process may use."""
        return available_cpus() if self.workers == "auto" else self.workers

    def redacted(self) -> dict[str, Any]:
        """All values by name, secrets as `***`."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        hidden = {
            name: "***"
            for name, entry in OPTIONS.items()
            if entry.secret and values[name] is not None
        }
        return values | hidden


OPTIONS: Final[Mapping[str, Option]] = collect_options(ServerConfig)
"""Every option by name, in the order of the declaration."""


@dataclass(frozen=True, slots=True)
class ResolvedConfig:
    """A configuration, and where it came from."""

    config: ServerConfig
    sources: Mapping[str, str]
    """What set each option: a flag, a variable or a file. What has its default is not in."""
    warnings: tuple[str, ...]


def resolve_config(
    cli: Mapping[str, object] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    file: Path | None = None,
    by_flag: bool = False,
) -> ResolvedConfig:
    """Build the configuration: `cli` before `POUNCE_*` before the file before fallback variables.

    Args:
        cli: What the command line (or a caller) sets, by option name.
        env: The environment; that of the process when None.
        file: A TOML file. When None, the one that POUNCE_CONFIG names, else `pounce.toml` or a
            `pyproject.toml` with `[tool.pounce]` in the working directory, where there is one.
        by_flag: Whether messages and sources call what is in `cli` by its flag.

    Raises:
        ConfigError: One line for each setting that is unknown, malformed or contradicts another.
    """
    settings = collect_settings(
        OPTIONS, cli or {}, os.environ if env is None else env, file, by_flag=by_flag
    )
    values: dict[str, Any] = dict(settings.values)
    config = ServerConfig(**values)
    return ResolvedConfig(config, settings.origins, tuple(settings.warnings))
