"""A stop that anybody may ask for at any time."""

from __future__ import annotations

import asyncio

import pytest

from pounce.stopping import StopRequest, unless


def test_a_request_wakes_who_hears_it() -> None:
    request, woken = StopRequest(), list[str]()
    with request.heard_by(lambda: woken.append("a")) as is_made:
        assert (is_made, request.is_heard) == (False, True)
        request.make()
        assert woken == ["a"]
    assert (request.is_made, request.is_heard) == (True, False)


def test_a_request_that_came_before_is_told() -> None:
    request = StopRequest()
    request.make()
    with request.heard_by(lambda: pytest.fail("it is known already")) as is_made:
        assert is_made


def test_nobody_hears_it_afterwards_even_after_an_error() -> None:
    request = StopRequest()
    with pytest.raises(KeyError), request.heard_by(lambda: pytest.fail("nobody listens")):
        raise KeyError
    request.make()


def test_a_loop_that_is_closed_needs_no_waking() -> None:
    request, loop = StopRequest(), asyncio.new_event_loop()
    with request.heard_by(lambda: loop.call_soon_threadsafe(print)):
        loop.close()
        request.make()
    assert request.is_made


def test_work_comes_to_its_end_unless_it_is_stopped() -> None:
    async def run(*, stops: bool) -> tuple[bool, bool]:
        stop, was_cancelled = asyncio.Event(), False
        if stops:
            stop.set()

        async def work() -> None:
            nonlocal was_cancelled
            try:
                await asyncio.sleep(3600 if stops else 0)
            except asyncio.CancelledError:
                was_cancelled = True
                raise

        has_ended = await unless(stop, work())
        await asyncio.sleep(0)
        return has_ended, was_cancelled

    assert asyncio.run(run(stops=False)) == (True, False)
    assert asyncio.run(run(stops=True)) == (False, True)


def test_what_work_raises_is_raised() -> None:
    async def work() -> None:
        raise KeyError("a")

    async def run() -> None:
        await unless(asyncio.Event(), work())

    with pytest.raises(KeyError):
        asyncio.run(run())
