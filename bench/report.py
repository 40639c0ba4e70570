"""From single rounds to medians, ratios and tables. No measuring here."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

PEERS = ("uvicorn", "granian")


@dataclass(frozen=True, slots=True)
class Sample:
    """One server in one round. Times in microseconds, memory in bytes."""

    requests: int
    requests_per_second: float
    cpu_us: float
    p50_us: float
    p99_us: float
    rss: int
    pss: int
    # Share of the server's core that went to anything but this server while it was measured.
    disturbance: float


Rounds = Mapping[str, Sequence[Sample]]


def medians(samples: Sequence[Sample]) -> dict[str, float]:
    rows = [asdict(sample) for sample in samples]
    return {field: median(row[field] for row in rows) for field in rows[0]}


def ratio(rounds: Rounds, subject: str, peer: str, field: str) -> float:
    """Median over the rounds of subject / peer, each taken within one round.

    What disturbs a machine for seconds disturbs neighbours in a round alike, and cancels out.
    """
    return median(ratios(rounds, subject, peer, field))


def ratios(rounds: Rounds, subject: str, peer: str, field: str) -> list[float]:
    """Subject / peer in each round."""
    return [
        float(getattr(ours, field) / getattr(theirs, field))
        for ours, theirs in zip(rounds[subject], rounds[peer], strict=True)
    ]


def headline(rounds: Rounds, subject: str) -> tuple[str, float] | None:
    """CPU per request against the better of uvicorn and granian: that peer and the ratio."""
    peers = [peer for peer in PEERS if peer in rounds]
    if not peers or subject in PEERS or subject not in rounds:
        return None
    against = {peer: ratio(rounds, subject, peer, "cpu_us") for peer in peers}
    best = max(against, key=lambda peer: against[peer])
    return best, against[best]


def summarise(rounds: Rounds, subject: str) -> dict[str, Any]:
    """The part of the JSON file that is computed: medians, ratios and the headline."""
    if subject not in rounds:
        return {"medians": {name: medians(samples) for name, samples in rounds.items()}}
    best = headline(rounds, subject)
    return {
        "medians": {name: medians(samples) for name, samples in rounds.items()},
        "ratios": {
            name: {
                "cpu": ratio(rounds, subject, name, "cpu_us"),
                "requests_per_second": ratio(rounds, subject, name, "requests_per_second"),
            }
            for name in rounds
            if name != subject
        },
        "headline": None if best is None else {"peer": best[0], "cpu_ratio": best[1]},
    }


def table(title: str, rounds: Rounds, subject: str) -> str:
    """One workload as text."""
    heads = ["server", "req/s", "CPU us/req", "(min-max)", "p50 ms", "p99 ms", "PSS MiB", "RSS MiB"]
    rows = [[*heads, f"{subject}/it CPU", "req/s"]]
    for name, samples in rounds.items():
        figures = medians(samples)
        cpu = [sample.cpu_us for sample in samples]
        row = [
            name,
            f"{figures['requests_per_second']:.0f}",
            f"{figures['cpu_us']:.2f}",
            f"({min(cpu):.1f}-{max(cpu):.1f})",
            f"{figures['p50_us'] / 1e3:.2f}",
            f"{figures['p99_us'] / 1e3:.2f}",
            f"{figures['pss'] / 2**20:.1f}",
            f"{figures['rss'] / 2**20:.1f}",
        ]
        if subject in rounds and name != subject:
            row.append(f"{ratio(rounds, subject, name, 'cpu_us'):.3f}")
            row.append(f"{ratio(rounds, subject, name, 'requests_per_second'):.2f}")
        rows.append(row)
    return "\n".join([title, *_columns(rows), *_notes(rounds, subject)])


def _columns(rows: list[list[str]]) -> list[str]:
    """The first column left, the others right, each as wide as its widest cell."""
    widths = [max(len(row[n]) for row in rows if n < len(row)) for n in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=False))
        )
        for row in rows
    ]


def _notes(rounds: Rounds, subject: str) -> list[str]:
    notes = []
    best = headline(rounds, subject)
    if best is not None:
        notes.append(
            f"{subject} / {best[0]} (the better of {' and '.join(PEERS)}): {best[1]:.3f} CPU"
        )
    if "floor" in rounds and subject in rounds and subject != "floor":
        notes.append(
            f"{subject} / floor: {ratio(rounds, subject, 'floor', 'cpu_us'):.2f} times the CPU"
        )
    worst = max((one.disturbance for samples in rounds.values() for one in samples), default=0.0)
    if worst > 0.05:
        notes.append(f"disturbed: up to {worst:.0%} of the server's core went to other processes")
    return notes
