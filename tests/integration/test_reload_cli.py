"""`pounce --reload` as a developer uses it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.server_process import ROOT, ServerProcess
from tests.waiting import PATIENCE, wait_until

APP = """
import asyncio, os
from pathlib import Path

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/slow":
        Path("begun").touch()
        while not Path("finish").exists():
            await asyncio.sleep(0.01)
    body = b"{answer}"
    headers = [(b"content-length", str(len(body)).encode()), (b"pid", str(os.getpid()).encode())]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})
"""

OPTIONS = ("--reload", "--reload-delay", "20ms")


class Project:
    """The directory with the application, and the server that runs in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.answer("one")

    def answer(self, text: str) -> None:
        self.write(APP.format(answer=text))

    def write(self, source: str) -> None:
        fresh = self.directory / "app.new"
        fresh.write_text(source)
        os.replace(fresh, self.directory / "app.py")

    def serve(self, *arguments: str) -> ServerProcess:
        return ServerProcess(
            "app:app",
            *OPTIONS,
            *arguments,
            cwd=self.directory,
            env={"PYTHONPATH": str(ROOT)},
        )


@pytest.fixture
def project(short_tmp_path: Path) -> Iterator[Project]:
    project = Project(short_tmp_path)
    yield project
    (project.directory / "finish").touch()


def ask(server: ServerProcess, path: str = "/") -> httpx.Response:
    with server.client() as client:
        return client.get(path)


def wait_for_answer(server: ServerProcess, text: str) -> None:
    wait_until(lambda: ask(server).text == text, f"the answer is {text!r}")


@pytest.mark.parametrize("address", ["tcp", "unix"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_edits_are_served_and_no_request_is_lost_on_the_way(
    project: Project, address: str, loop: str
) -> None:
    path = project.directory / "socket"
    arguments = ["--loop", loop, *(["--uds", str(path)] if address == "unix" else [])]
    finished = threading.Event()
    answers: list[str] = []
    errors: list[Exception] = []

    def keep_asking() -> None:
        while not finished.is_set():
            try:
                answers.append(ask(server).text)
            except Exception as error:
                errors.append(error)

    def wait_until_answered(text: str) -> None:
        wait_until(lambda: text in answers or errors, f"{text!r} is answered")

    with project.serve(*arguments) as server:
        client = threading.Thread(target=keep_asking)
        client.start()
        try:
            for text in ("one", "two", "three"):
                project.answer(text)
                wait_until_answered(text)
        finally:
            finished.set()
            client.join()
        assert path.exists() == (address == "unix")
    assert errors == []
    assert list(dict.fromkeys(answers)) == ["one", "two", "three"]
    assert not path.exists()


def test_broken_code_is_reported_and_its_repair_served(project: Project) -> None:
    with project.serve() as server:
        project.write("import asyncio\ndef app(:\n")
        wait_until(
            lambda: "waiting for a change" in server.stderr_text(), "the fault is reported", 30
        )
        report = server.stderr_text()
        assert 'app.py", line 2' in report
        assert "SyntaxError" in report
        assert "pounce/" not in report.partition("Traceback")[2]  # none of our own frames
        project.answer("mended")
        wait_for_answer(server, "mended")


def test_a_wrong_import_string_is_one_line(project: Project) -> None:
    with project.serve() as server:
        project.write("something_else = None\n")
        wait_until(
            lambda: "waiting for a change" in server.stderr_text(), "the fault is reported", 30
        )
        assert "Traceback" not in server.stderr_text()
        assert "ERROR" in server.stderr_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_request_in_flight_finish(
    project: Project, number: signal.Signals
) -> None:
    responses: list[httpx.Response] = []
    with project.serve() as server:
        client = threading.Thread(target=lambda: responses.append(ask(server, "/slow")))
        client.start()
        wait_until((project.directory / "begun").exists, "the request has begun")
        server.send_signal(number)
        wait_until(lambda: "shutting down" in server.stderr_text(), "the child stops")
        (project.directory / "finish").touch()
        client.join(PATIENCE)
        assert server.wait() == 0
    assert [response.text for response in responses] == ["one"]


def test_a_request_in_flight_outlives_an_edit(project: Project) -> None:
    responses: list[httpx.Response] = []
    with project.serve() as server:
        client = threading.Thread(target=lambda: responses.append(ask(server, "/slow")))
        client.start()
        wait_until((project.directory / "begun").exists, "the request has begun")
        project.answer("two")
        wait_for_answer(server, "two")
        (project.directory / "finish").touch()
        client.join(PATIENCE)
    assert [response.text for response in responses] == ["one"]


def test_sighup_loads_the_code_again(project: Project) -> None:
    with project.serve() as server:
        first = ask(server).headers["pid"]
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: ask(server).headers["pid"] != first, "another process answers")
