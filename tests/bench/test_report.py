import pytest

from bench.report import Sample, headline, medians, ratio, summarise, table


def sample(cpu_us: float, rate: float = 1000.0, disturbance: float = 0.0) -> Sample:
    return Sample(
        requests=1000,
        requests_per_second=rate,
        cpu_us=cpu_us,
        p50_us=1500,
        p99_us=4000,
        rss=2**21,
        pss=2**20,
        disturbance=disturbance,
    )


def test_medians_are_taken_per_figure() -> None:
    figures = medians([sample(10, 300), sample(30, 100), sample(20, 200)])
    assert figures["cpu_us"] == 20
    assert figures["requests_per_second"] == 200


def test_ratio_is_the_median_of_the_ratios_within_rounds() -> None:
    # The second round is disturbed for both: the medians alone would say 10 / 20.
    rounds = {"pounce": [sample(10), sample(40), sample(8)], "uvicorn": [sample(20), sample(50)]}
    rounds["uvicorn"].append(sample(10))
    assert ratio(rounds, "pounce", "uvicorn", "cpu_us") == 0.8


def test_rounds_of_different_number_are_refused() -> None:
    rounds = {"pounce": [sample(10)], "uvicorn": [sample(20), sample(20)]}
    with pytest.raises(ValueError, match="zip"):
        ratio(rounds, "pounce", "uvicorn", "cpu_us")


def test_headline_is_against_the_better_of_the_peers() -> None:
    rounds = {
        "pounce": [sample(10)],
        "uvicorn": [sample(25)],
        "granian": [sample(20)],
        "hypercorn": [sample(11)],
    }
    assert headline(rounds, "pounce") == ("granian", 0.5)


@pytest.mark.parametrize("others", [["hypercorn"], []])
def test_no_headline_without_a_peer(others: list[str]) -> None:
    rounds = {name: [sample(10)] for name in ["pounce", *others]}
    assert headline(rounds, "pounce") is None


def test_no_headline_about_a_peer_or_a_failed_server() -> None:
    rounds = {"uvicorn": [sample(10)], "granian": [sample(20)]}
    assert headline(rounds, "uvicorn") is None
    assert headline(rounds, "pounce") is None


def test_summary_has_ratios_to_every_other_server() -> None:
    rounds = {"pounce": [sample(10, 3000)], "floor": [sample(5, 6000)], "uvicorn": [sample(20)]}
    summary = summarise(rounds, "pounce")
    assert summary["ratios"] == {
        "floor": {"cpu": 2.0, "requests_per_second": 0.5},
        "uvicorn": {"cpu": 0.5, "requests_per_second": 3.0},
    }
    assert summary["headline"] == {"peer": "uvicorn", "cpu_ratio": 0.5}


def test_summary_without_the_subject_has_medians_only() -> None:
    assert list(summarise({"uvicorn": [sample(20)]}, "pounce")) == ["medians"]


def test_table_shows_figures_ratios_and_headline() -> None:
    rounds = {"pounce": [sample(10), sample(12)], "floor": [sample(5), sample(6)]}
    rounds["granian"] = [sample(20), sample(24)]
    text = table("plain", rounds, "pounce")
    title, head, pounce, floor, granian, *notes = text.splitlines()
    assert title == "plain"
    assert head.split()[0] == "server"
    assert " ".join(pounce.split()) == "pounce 1000 11.00 (10.0-12.0) 1.50 4.00 1.0 2.0"
    assert floor.split()[-2:] == ["2.000", "1.00"]
    assert granian.split()[-2:] == ["0.500", "1.00"]
    assert notes == [
        "pounce / granian (the better of uvicorn and granian): 0.500 CPU",
        "pounce / floor: 2.00 times the CPU",
    ]


def test_table_tells_of_a_disturbed_run() -> None:
    text = table("plain", {"pounce": [sample(10), sample(10, disturbance=0.2)]}, "pounce")
    assert "up to 20%" in text.splitlines()[-1]


def test_table_of_a_workload_in_which_all_failed() -> None:
    assert table("plain", {}, "pounce").splitlines()[0] == "plain"
