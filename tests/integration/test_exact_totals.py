"""Every answer is counted once, whatever becomes of the workers: the bench, with fewer requests."""

from __future__ import annotations

import asyncio
from collections import Counter

from bench.totals import MIX, Kind, Loss, Outcome, Tally, Watch, complaints, late_notes, run


def test_totals_are_what_was_answered_while_workers_are_killed_and_reloaded() -> None:
    outcome = asyncio.run(run(4_000, connections=16, kills=2, reloads=1))
    assert list(complaints(outcome)) == []
    assert outcome.kills == 2
    assert outcome.tally.answered.total() + len(outcome.tally.unanswered) == 4_000
    assert outcome.watch.scrapes > 5


def outcome_of(counted: dict[tuple[str, int], int], uncounted: int = 0) -> Outcome:
    """Each kind was answered 10 times."""
    tally = Tally(answered=Counter(dict.fromkeys(set(MIX), 10)))
    per_key = Counter[tuple[str, int]]()
    for kind in set(MIX):
        per_key[kind.method, kind.status] += 10
    found = {**per_key, **counted}
    watch = Watch()
    contents = {(kind.method, kind.status): kind.received for kind in MIX}
    watch.note(
        {
            **{
                f'http_requests_total{{method="{method}",status="{status}"}}': float(count)
                for (method, status), count in found.items()
            },
            "http_request_size_bytes_sum": float(
                sum(contents[key] * count for key, count in found.items())
            ),
        }
    )
    return Outcome(tally, watch, 1, uncounted)


def test_one_more_or_fewer_is_a_complaint() -> None:
    assert list(complaints(outcome_of({}))) == []
    assert list(complaints(outcome_of({("GET", 404): 11}))) == ["GET 404: 11 counted, 10 answered"]
    assert list(complaints(outcome_of({("GET", 404): 9}))) == [
        "1 answers are not counted, the log tells of 0"
    ]
    assert list(complaints(outcome_of({("GET", 404): 9}, uncounted=1))) == []


def test_requests_in_progress_at_a_kill_may_be_counted_or_not() -> None:
    outcome = outcome_of({("GET", 404): 11})
    outcome.tally.unanswered.append(Kind("GET", 404, 0, 9))
    assert list(complaints(outcome)) == []


def test_a_counter_that_falls_is_a_complaint() -> None:
    outcome = outcome_of({})
    outcome.watch.note({**outcome.watch.last, 'http_timeouts_total{reason="write"}': 3.0})
    outcome.watch.note({**outcome.watch.last, 'http_timeouts_total{reason="write"}': 2.0})
    assert list(complaints(outcome)) == ['http_timeouts_total{reason="write"}: 3, then 2.0']


def test_what_the_log_has_in_progress_although_it_was_answered() -> None:
    lost = Loss(5001, "GET /404/9", before="PUT /200/300")
    assert late_notes([("GET /404/9", 5001)], [lost]) == 0
    assert late_notes([("GET /404/9", 5002)], [lost]) == 1, "that connection was not lost"
    assert late_notes([("PUT /200/300", 5001)], [lost]) == 1, "the next was sent, and lost"
    alike = Loss(5001, "GET /404/9", before="GET /404/9")
    assert late_notes([("GET /404/9", 5001)], [alike]) == 1, "it may be the one before"
