import errno
from pathlib import Path

import pytest

from bench.churn import Kill, Phase, describe, figures, is_excused, percentile
from bench.churn_load import (
    INCOMPLETE,
    OK,
    OTHER,
    REFUSED,
    RESET,
    TIMEOUT,
    Answer,
    Request,
    kind_of,
    parse_answer,
    read_records,
    write_records,
)


class TestAnswer:
    ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Worker: 17\r\n\r\nok"

    def test_is_complete(self) -> None:
        assert parse_answer(self.ANSWER) == Answer(200, closes=False, worker=17)

    @pytest.mark.parametrize("length", [0, 10, len(ANSWER) - 3, len(ANSWER) - 1])
    def test_is_incomplete(self, length: int) -> None:
        assert parse_answer(self.ANSWER[:length]) is None

    def test_says_that_it_is_the_last(self) -> None:
        answer = parse_answer(self.ANSWER.replace(b"X-Worker", b"Connection: close\r\nX-Worker"))
        assert answer == Answer(200, closes=True, worker=17)

    def test_has_more_than_it_says(self) -> None:
        with pytest.raises(ValueError, match="no response"):
            parse_answer(self.ANSWER + b"x")

    def test_is_none(self) -> None:
        with pytest.raises(ValueError, match="no response"):
            parse_answer(b"GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (None, INCOMPLETE),
        (ConnectionRefusedError(), REFUSED),
        (BlockingIOError(errno.EAGAIN, ""), REFUSED),
        (ConnectionResetError(), RESET),
        (BrokenPipeError(), RESET),
        (TimeoutError(), TIMEOUT),
        (ValueError(), OTHER),
        (OSError(errno.EMFILE, ""), OTHER),
    ],
)
def test_kinds_of_failure(error: BaseException | None, kind: int) -> None:
    assert kind_of(error) == kind


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    requests = [Request(1.5, 0.25, OK, False, 0), Request(2.5, 9.0, RESET, True, 4_000_000)]
    write_records(tmp_path / "records", requests)
    assert read_records(tmp_path / "records") == requests


class TestIsExcused:
    KILL = Kill(10.0, 17)

    @pytest.mark.parametrize(
        "request_",
        [
            Request(9.9, 0.15, RESET, True, 17),
            Request(9.9, 0.15, INCOMPLETE, False, 0),
            Request(9.9, 0.15, RESET, False, 17),
            Request(10.2, 0.1, RESET, True, 17),  # before the client had noticed
        ],
    )
    def test_in_flight_on_the_killed_worker(self, request_: Request) -> None:
        assert is_excused(request_, [self.KILL])

    @pytest.mark.parametrize(
        "request_",
        [
            Request(9.9, 0.15, RESET, True, 18),  # on another worker
            Request(9.9, 0.05, RESET, True, 17),  # failed before
            Request(9.9, 3.0, RESET, False, 0),  # failed long afterwards
            Request(10.2, 0.1, RESET, False, 0),  # began afterwards
            Request(9.9, 0.15, REFUSED, False, 0),  # never has to be
            Request(9.9, 15.0, TIMEOUT, False, 0),
        ],
    )
    def test_lost(self, request_: Request) -> None:
        assert not is_excused(request_, [self.KILL])

    def test_without_a_kill(self) -> None:
        assert not is_excused(Request(9.9, 0.15, RESET, True, 17), [])


class TestFigures:
    REQUESTS = (
        Request(0.5, 0.9, OK, False, 17),  # of the phase before
        *(Request(1.0 + n / 1000, n / 1000, OK, True, 17) for n in range(1, 101)),
        Request(1.5, 0.1, RESET, True, 17),
        Request(1.5, 0.1, RESET, True, 18),
        Request(1.6, 0.1, REFUSED, False, 0),
        Request(2.0, 0.9, TIMEOUT, False, 0),  # of the phase after
    )
    PHASE = Phase("1 kills", 1.0, 2.0, ready_after=[0.5, 1.5], kills=[Kill(1.55, 17)])

    def test_are_those_of_the_phase(self) -> None:
        found = figures(self.REQUESTS, self.PHASE, self.PHASE.kills)
        assert found.requests == 103
        assert found.failed == {"reset": 2, "refused": 1}
        assert found.excused == 1
        assert (found.worst, found.p99, found.p50) == (0.1, 0.099, 0.05)

    def test_are_described(self) -> None:
        text = describe(self.PHASE, figures(self.REQUESTS, self.PHASE, self.PHASE.kills))
        assert "103 requests     3 failed  worst   100.0 ms  p99   99.0 ms" in text
        assert "done in 0.50 s, at most 1.50 s" in text
        assert "1 refused, 2 reset; 1 of them in flight on a killed worker" in text

    def test_of_no_requests(self) -> None:
        assert figures([], self.PHASE, []).requests == 0


@pytest.mark.parametrize(("part", "value"), [(0.01, 1.0), (0.5, 2.0), (0.51, 3.0), (1.0, 4.0)])
def test_percentile(part: float, value: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], part) == value
