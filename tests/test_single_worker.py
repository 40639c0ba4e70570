"""Small parts of the worker without a master that need no process of their own."""

from __future__ import annotations

import os
import signal

import pytest

from pounce import ServerConfig
from pounce.single_worker import SingleWorker
from pounce.stopping import StopRequest


async def _app(scope: object, receive: object, send: object) -> None:
    raise AssertionError("not called")


def test_only_a_second_signal_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes after shutdown() is the first one: a reloading parent asks for a stop
    through a pipe while the terminal sends SIGINT."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    request = StopRequest()
    request.make()
    worker = SingleWorker(
        ServerConfig(), _app, request=request, report_listening=lambda bound: None
    )
    worker._on_signal(signal.SIGINT)
    assert ended == []
    worker._on_signal(signal.SIGINT)
    assert ended == [0]
