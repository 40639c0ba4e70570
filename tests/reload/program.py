"""A small program around `pounce.reload`, run as a process of its own by the tests.

The child serves a line-based protocol instead of HTTP: it answers each connection with one line,
made from a module that the tests edit.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pounce.config import ServerConfig
from pounce.net.sockets import bind, bound_addr, close_sockets, listen
from pounce.reload import reloader as reload
from pounce.reload.reloader import Reloader, StopSignal


def serve(
    config: ServerConfig, app_path: str, sockets: list[socket.socket], stop: StopSignal
) -> None:
    """The target: answers `pid ANSWER`. The module may ask for bad behaviour by its `MODE`."""
    assert not config.reload
    sys.path.insert(0, os.getcwd())
    app = importlib.import_module(app_path)
    mode = getattr(app, "MODE", "")
    if mode == "exit":
        sys.exit(app.CODE)
    if mode == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    stopped, wake = os.pipe()
    stop.subscribe(lambda: os.write(wake, b"\0"))
    answer = sys.stdin.readline().strip() if mode == "read stdin" else app.ANSWER
    signal.signal(signal.SIGINT, lambda *_: os.write(wake, b"\0"))
    _accept(sockets, stopped, answer, mode)
    if mode == "slow":  # a response that takes until the test allows it to end
        while not Path("finish").exists():
            time.sleep(0.01)
    if mode == "frozen":
        os.kill(os.getpid(), signal.SIGSTOP)
    with open("stopped", "a") as log:
        log.write(f"{os.getpid()}\n")


def _accept(sockets: list[socket.socket], stopped: int, answer: str, mode: str) -> None:
    with selectors.DefaultSelector() as selector:
        for sock in sockets:
            selector.register(sock, selectors.EVENT_READ)
        selector.register(stopped, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == stopped:
                    return
                assert isinstance(key.fileobj, socket.socket)
                try:
                    connection, _ = key.fileobj.accept()
                except BlockingIOError:  # the child beside this one was faster
                    continue
                with connection:
                    connection.sendall(f"{os.getpid()} {answer}\n".encode())


def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("STOP_MARGIN", "OVERLAP_AFTER"):
        setattr(reload, name, options.pop(name.lower(), getattr(reload, name)))
    terminal = options.pop("terminal", None)
    stop_from_thread = options.pop("stop_from_thread", False)
    if terminal is not None:  # a session leader's first terminal becomes its controlling one
        os.close(os.open(terminal, os.O_RDWR))
    sockets = bind(ServerConfig(reload=True, port=0, **options))
    listen(sockets, 16)  # the tests connect as soon as they know the port
    print(bound_addr(sockets[0])[1], flush=True)
    reloader = Reloader(ServerConfig(reload=True, port=0, **options), "app", sockets, target=serve)
    if stop_from_thread:
        codes: list[int] = []
        thread = threading.Thread(target=lambda: codes.append(reloader.run()))
        thread.start()
        sys.stdin.readline()
        reloader.stop()
        thread.join()
        code = codes[0]
    else:
        code = reloader.run()
    close_sockets(sockets)
    sys.exit(code)


if __name__ == "__main__":
    main()
