"""How many connections are accepted in a turn, by how many came."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pounce.worker.appetite import IN_A_ROW, LONGEST_REST, SHORTEST_REST, WORTH_IT, Appetite


def told(it: Appetite, number: int, now: float = 0.0, times: int = IN_A_ROW) -> int:
    for _ in range(times):
        it.came(number, now)
    return it.at_once


def test_it_grows_while_as_many_come_as_can() -> None:
    it = Appetite(16)
    assert told(it, 1, times=IN_A_ROW - 1) == 1
    assert told(it, 1, times=1) == 4
    assert told(it, 3) == 4
    assert told(it, 4) == 16
    assert told(it, 20) == 16


def test_one_turn_is_not_enough() -> None:
    it = Appetite(16)
    for _ in range(10):
        assert told(it, 1, times=IN_A_ROW - 1) == 1
        assert told(it, 0, times=1) == 1


def test_it_shrinks_where_few_come_and_rests_longer_each_time() -> None:
    it = Appetite(4)
    now, rest = 0.0, SHORTEST_REST
    for _ in range(10):
        assert told(it, 4, now) == 4
        assert told(it, 1, now) == 1
        assert told(it, 4, now + rest * 0.9) == 1
        now += rest
        rest = min(rest * 2, LONGEST_REST)


def test_it_rests_for_a_moment_after_a_good_while() -> None:
    it = Appetite(4)
    now = 0.0
    for _ in range(10):
        assert told(it, 4, now) == 4
        now += WORTH_IT
        assert told(it, 1, now) == 1
        now += SHORTEST_REST


@given(st.integers(1, 16), st.lists(st.tuples(st.integers(0, 40), st.floats(0, 100))))
def test_it_keeps_to_its_limits(most: int, turns: list[tuple[int, float]]) -> None:
    it = Appetite(most)
    now = 0.0
    for number, seconds in turns:
        now += seconds
        before = it.at_once
        assert it.came(number, now) == (it.at_once != before)
        assert 1 <= it.at_once <= most
