"""The stages of a turn of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from pounce.worker.stages import Stage


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


def chain(log: list[str]) -> tuple[Stage[str], Stage[str]]:
    """Two stages: each item of the first leaves one to the second."""
    loop = asyncio.get_running_loop()
    second: Stage[str] = Stage(loop, lambda item: log.append(f"second {item}"))

    def do(item: str) -> None:
        log.append(f"first {item}")
        second.add(item)

    return Stage(loop, do, second), second


@in_loop
async def test_the_second_stage_has_its_turn_when_the_first_is_over() -> None:
    log: list[str] = []
    first, _ = chain(log)
    for item in "abc":
        first.add(item)
    assert log == []
    await asyncio.sleep(0)
    assert log == [f"{stage} {item}" for stage in ("first", "second") for item in "abc"]


@in_loop
async def test_a_stage_runs_by_itself_where_no_other_runs_it() -> None:
    log: list[str] = []
    _, second = chain(log)
    second.add("a")
    await asyncio.sleep(0)
    assert log == ["second a"]


@in_loop
async def test_what_was_due_already_is_done_once() -> None:
    log: list[str] = []
    first, second = chain(log)
    second.add("a")
    first.add("b")
    first.run()
    assert log == ["first b", "second a", "second b"]
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(log) == 3
    first.add("c")
    await asyncio.sleep(0)
    assert log[3:] == ["first c", "second c"]


@in_loop
async def test_what_is_added_meanwhile_is_for_the_next_turn() -> None:
    log: list[str] = []

    def do(item: str) -> None:
        log.append(item)
        if len(item) < 3:
            stage.add(item + "a")

    stage: Stage[str] = Stage(asyncio.get_running_loop(), do)
    stage.add("a")
    for expected in (["a"], ["a", "aa"], ["a", "aa", "aaa"], ["a", "aa", "aaa"]):
        await asyncio.sleep(0)
        assert log == expected


@in_loop
async def test_an_error_harms_nobody_else() -> None:
    loop = asyncio.get_running_loop()
    errors: list[str] = []
    loop.set_exception_handler(lambda _, context: errors.append(str(context["exception"])))
    log: list[str] = []
    second: Stage[str] = Stage(loop, log.append)

    def do(item: str) -> None:
        if item == "bad":
            raise ValueError(item)
        second.add(item)

    first = Stage(loop, do, second)
    for item in ("a", "bad", "b"):
        first.add(item)
    await asyncio.sleep(0)
    assert (log, errors) == (["a"], ["bad"])
    await asyncio.sleep(0)
    assert (log, errors) == (["a", "b"], ["bad"])


@pytest.mark.parametrize("stages", [1, 2])
def test_a_stage_without_work_does_no_harm(stages: int) -> None:
    async def test() -> None:
        log: list[str] = []
        first, second = chain(log)
        (first, second)[stages - 1].run()
        first.add("a")
        await asyncio.sleep(0)
        assert log == ["first a", "second a"]

    asyncio.run(test())
