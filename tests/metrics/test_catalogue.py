from __future__ import annotations

import re
from http import HTTPStatus

import pytest

from pounce.metrics import catalogue
from pounce.metrics.catalogue import METHODS, METRICS, OTHER, STATUSES
from pounce.supervisor.pool_events import ExitReason


def test_every_metric_is_made_of_cells_of_its_shape() -> None:
    layout = catalogue.layout(1)
    for metric in METRICS:
        for name in metric.cells:
            shape = layout[name].declaration.shape
            assert shape == tuple(len(values) for _, values in metric.labels), metric.name


def test_every_cell_is_told_of() -> None:
    told = {name for metric in METRICS for name in metric.cells}
    untold = {each.name for each in catalogue.CELLS} - told
    assert untold == {"loop_delay", "place", "listeners"}, "the exposition reads these by itself"


def test_names_follow_the_conventions_of_prometheus() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"(http|pounce)(_[a-z]+)+", metric.name)
        assert not metric.name.endswith("_total")
        assert metric.help.endswith(".")
        if metric.unit == "seconds" or metric.kind == "histogram":
            assert metric.name.endswith("_" + metric.unit)


@pytest.mark.parametrize("status", [status for status in HTTPStatus if status >= 200])
def test_registered_statuses_have_their_own_label(status: int) -> None:
    assert STATUSES[catalogue.status_index(status)] == str(int(status))


@pytest.mark.parametrize("status", range(200, 1000))
def test_every_final_status_has_a_label(status: int) -> None:
    assert STATUSES[catalogue.status_index(status)] in (str(status), f"{status // 100}xx")


def test_methods_that_are_not_known_are_one_label() -> None:
    assert METHODS[catalogue.method_index("GET")] == "GET"
    assert METHODS[catalogue.method_index("get")] == OTHER
    assert METHODS[catalogue.method_index("BREW")] == OTHER


def test_every_reason_for_an_exit_has_a_cell() -> None:
    assert set(catalogue.EXIT_REASONS) == {reason.value for reason in ExitReason}
