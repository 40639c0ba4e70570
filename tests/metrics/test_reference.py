from __future__ import annotations

from pounce.config import ServerConfig
from pounce.metrics.exposition import FAMILIES, Exposition
from pounce.metrics.reference import labels_of, reference_markdown, sample_name
from pounce.net.listener import SlotQueue
from tests.metrics.arenas import LAYOUT, add_master, arena_with


def test_every_metric_has_a_row() -> None:
    page = reference_markdown()
    rows = [line for line in page.partition("## ")[0].splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [sample_name(family) for family in FAMILIES]
    assert all(row.count("|") == 5 for row in rows), "no cell holds a separator"


def test_labels_are_those_of_a_scrape() -> None:
    with arena_with(1, 2) as arena:
        add_master(arena)
        arena.slots[0].cells[LAYOUT["requests_without_content"].start] = 1
        queues = [SlotQueue(("127.0.0.1", 80), 1, 0, 128)]
        found = {
            metric.name: {name for sample in metric.samples for name in sample.labels} - {"le"}
            for metric in Exposition(arena, ServerConfig(), queues=lambda: queues).collect()
            if metric.samples
        }
    listed = {family.name: set(labels_of(family)) for family in FAMILIES}
    assert {name: listed[name] for name in found} == found
