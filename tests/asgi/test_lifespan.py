from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from pounce.asgi.lifespan import Lifespan
from pounce.asgi.types import ASGIApp, Message, Receive, Scope, Send
from pounce.errors import LifespanError

Result = TypeVar("Result")

every_mode = pytest.mark.parametrize("mode", ["on", "auto"])


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Runs it to its end, which is not waited for longer than is patient."""

    async def bounded() -> Result:
        async with asyncio.timeout(20):
            return await coroutine

    return asyncio.run(bounded())


class Keeper(logging.Handler):
    """Keeps the records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """What is logged, whatever the other tests have configured."""
    logger, handler = logging.getLogger("pounce.error"), Keeper()
    before = logger.level, logger.disabled
    logger.setLevel(logging.DEBUG)
    logger.disabled = False
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)
    logger.setLevel(before[0])
    logger.disabled = before[1]


def errors(logged: list[logging.LogRecord]) -> list[str]:
    return [record.getMessage() for record in logged if record.levelno >= logging.ERROR]


class App:
    """A well-behaved application that notes what happens to it."""

    def __init__(self, startup: Message | None = None, shutdown: Message | None = None) -> None:
        self.startup = startup or {"type": "lifespan.startup.complete"}
        self.shutdown = shutdown or {"type": "lifespan.shutdown.complete"}
        self.events: list[str] = []
        self.scope: Scope = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        scope["state"]["ready"] = True
        await self.take(receive, "lifespan.startup")
        await send(self.startup)
        if self.startup["type"] == "lifespan.startup.failed":
            return
        await self.take(receive, "lifespan.shutdown")
        await asyncio.sleep(0)
        await send(self.shutdown)
        for _ in range(20):
            await asyncio.sleep(0)
        self.events.append("tidied up")

    async def take(self, receive: Receive, kind: str) -> None:
        message = await receive()
        assert message == {"type": kind}
        self.events.append(kind)


def raising(exc: BaseException, *, asks: bool = False) -> ASGIApp:
    """An application that raises, at once or when it has the startup message."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if asks:
            await receive()
        raise exc

    return app


def sending(*kinds: str, asks: bool = True) -> ASGIApp:
    """An application that sends these messages one after the other."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if asks:
            await receive()
        for kind in kinds:
            await send({"type": kind})

    return app


async def returning(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that ignores what it does not know."""


async def start(app: ASGIApp, mode: str) -> Lifespan:
    lifespan = Lifespan(app, mode)
    await lifespan.startup()
    return lifespan


# What goes well


@every_mode
def test_startup_and_shutdown(mode: str, logged: list[logging.LogRecord]) -> None:
    app = App()

    async def live() -> None:
        lifespan = await start(app, mode)
        assert app.events == ["lifespan.startup"]
        assert app.scope == {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": {"ready": True},
        }
        assert lifespan.state is app.scope["state"]
        await asyncio.sleep(0)
        assert app.events == ["lifespan.startup"]
        await lifespan.shutdown()
        # Also what the application does after its last message has been done.
        assert app.events == ["lifespan.startup", "lifespan.shutdown", "tidied up"]
        await lifespan.shutdown()

    run(live())
    assert not errors(logged)


def test_off_does_not_call_the_application() -> None:
    app = App()

    async def live() -> None:
        lifespan = await start(app, "off")
        lifespan.cancel()
        await lifespan.shutdown()
        assert lifespan.state == {}

    run(live())
    assert app.scope == {}


def test_an_application_may_end_its_lifespan_early(logged: list[logging.LogRecord]) -> None:
    async def live() -> None:
        lifespan = await start(sending("lifespan.startup.complete"), "on")
        await asyncio.sleep(0)
        await lifespan.shutdown()

    run(live())
    assert not errors(logged)


def test_an_application_need_not_wait_for_the_startup_message() -> None:
    async def live() -> None:
        lifespan = await start(sending("lifespan.startup.complete", asks=False), "on")
        await lifespan.shutdown()

    run(live())


# Applications without lifespan


@pytest.mark.parametrize(
    "app",
    [
        raising(AssertionError("only http")),
        raising(KeyError("path")),
        returning,
        sending("http.response.start", asks=False),
        sending("http.response.start"),
        sending("lifespan.shutdown.complete"),
        sending(),
    ],
    ids=["raises", "raises KeyError", "returns", "answers", "asks and answers", "is early", "asks"],
)
def test_an_application_without_lifespan(app: ASGIApp, logged: list[logging.LogRecord]) -> None:
    async def live(mode: str) -> None:
        lifespan = await start(app, mode)
        assert lifespan.state == {}
        await lifespan.shutdown()

    run(live("auto"))
    assert not errors(logged)
    with pytest.raises(LifespanError, match="does not support lifespan"):
        run(live("on"))
    assert not errors(logged)


# Failures


@every_mode
@pytest.mark.parametrize("detail", ["the database is away", None])
def test_startup_that_the_application_says_failed(mode: str, detail: str | None) -> None:
    message = {"type": "lifespan.startup.failed", **({"message": detail} if detail else {})}
    with pytest.raises(LifespanError) as caught:
        run(start(App(message), mode))
    expected = "application startup failed"
    assert str(caught.value) == (f"{expected}: {detail}" if detail else expected)
    assert caught.value.exit_code == 3


@every_mode
def test_startup_that_fails_is_reported_once(mode: str, logged: list[logging.LogRecord]) -> None:
    """Frameworks say that they failed and raise what made them fail."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "traceback"})
        raise RuntimeError("as well")

    async def live() -> None:
        with pytest.raises(LifespanError, match="traceback"):
            await start(app, mode)
        await asyncio.sleep(0)

    run(live())
    assert not errors(logged)


@every_mode
def test_startup_that_raises(mode: str) -> None:
    cause = RuntimeError("no database")
    with pytest.raises(
        LifespanError, match=r"startup failed: RuntimeError\('no database'\)"
    ) as caught:
        run(start(raising(cause, asks=True), mode))
    assert caught.value.__cause__ is cause


@every_mode
def test_an_application_that_fails_while_it_serves(
    mode: str, logged: list[logging.LogRecord]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await sending("lifespan.startup.complete")(scope, receive, send)
        raise RuntimeError("background task")

    async def live() -> None:
        lifespan = await start(app, mode)
        await asyncio.sleep(0)
        await lifespan.shutdown()

    run(live())
    assert errors(logged) == ["lifespan: the application failed"]
    assert "background task" in str(logged[-1].exc_info)


@every_mode
def test_shutdown_that_the_application_says_failed(
    mode: str, logged: list[logging.LogRecord]
) -> None:
    app = App(shutdown={"type": "lifespan.shutdown.failed", "message": "cannot flush"})

    async def live() -> None:
        await (await start(app, mode)).shutdown()

    run(live())
    assert errors(logged) == ["application shutdown failed: cannot flush"]
    assert app.events[-1] == "tidied up"


@every_mode
def test_shutdown_that_raises(mode: str, logged: list[logging.LogRecord]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await sending("lifespan.startup.complete")(scope, receive, send)
        await receive()
        raise RuntimeError("cannot flush")

    async def live() -> None:
        await (await start(app, mode)).shutdown()

    run(live())
    assert errors(logged) == ["lifespan: the application failed"]


@pytest.mark.parametrize(
    ("kinds", "unexpected"),
    [
        (["lifespan.startup.complete"] * 2, "lifespan.startup.complete"),
        (["lifespan.startup.complete", "lifespan.startup.failed"], "lifespan.startup.failed"),
        (["lifespan.startup.complete", "http.response.start"], "http.response.start"),
        (["lifespan.startup.complete", *["lifespan.shutdown.complete"] * 2], "lifespan.shutdown"),
    ],
)
def test_unexpected_messages_are_errors_of_the_application(
    kinds: list[str], unexpected: str, logged: list[logging.LogRecord]
) -> None:
    async def live() -> None:
        lifespan = await start(sending(*kinds), "on")
        await asyncio.sleep(0)
        await lifespan.shutdown()

    run(live())
    assert errors(logged) == ["lifespan: the application failed"]
    assert f"unexpected ASGI message '{unexpected}" in str(logged[-1].exc_info)


@pytest.mark.parametrize("exit_with", [SystemExit(5), KeyboardInterrupt()])
@pytest.mark.parametrize("asks", [False, True])
def test_an_application_may_end_the_program(exit_with: BaseException, asks: bool) -> None:
    with pytest.raises(type(exit_with)):
        run(start(raising(exit_with, asks=asks), "auto"))


# Ending it from outside


async def never_ready(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await asyncio.Event().wait()


@every_mode
def test_startup_can_be_given_up(mode: str, logged: list[logging.LogRecord]) -> None:
    async def live() -> None:
        lifespan = Lifespan(never_ready, mode)
        starting = asyncio.ensure_future(lifespan.startup())
        await asyncio.sleep(0)
        starting.cancel()
        lifespan.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await lifespan.shutdown()

    run(live())
    assert not errors(logged)


def test_what_fails_when_startup_is_given_up_is_logged(logged: list[logging.LogRecord]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await never_ready(scope, receive, send)
        finally:
            raise RuntimeError("cannot undo")

    async def live() -> None:
        lifespan = Lifespan(app, "on")
        starting = asyncio.ensure_future(lifespan.startup())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        starting.cancel()
        lifespan.cancel()
        await asyncio.wait({starting})
        await lifespan.shutdown()

    run(live())
    assert errors(logged) == ["lifespan: the application failed"]


def test_an_application_that_does_not_shut_down_can_be_cancelled(
    logged: list[logging.LogRecord],
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await sending("lifespan.startup.complete")(scope, receive, send)
        await never_ready(scope, receive, send)

    async def live() -> None:
        lifespan = await start(app, "on")
        stopping = asyncio.ensure_future(lifespan.shutdown())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not stopping.done()
        lifespan.cancel()
        await stopping

    run(live())
    assert not errors(logged)


def test_shutdown_of_what_never_started() -> None:
    async def live() -> None:
        lifespan = Lifespan(App(), "on")
        lifespan.cancel()
        await lifespan.shutdown()

    run(live())
