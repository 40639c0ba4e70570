"""The exposition formats of Prometheus, as prometheus_client writes them.

prometheus_client writes every series once, with zeros; what it wrote becomes a template, and from
then on only the numbers are put in. That is some ten times faster than to have it write all of
them at each scrape, and gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from pounce.metrics.families import Family, Reading, Series, format_value
from pounce.metrics.negotiation import preferences

_ZERO: Final = " 0.0"

_APART: Final = ("_created", "_gsum", "_gcount")
"""Samples that the text format has behind all others of their metric."""

_KNOWN_LINES: Final = 20_000
"""Beginnings of lines that are remembered."""

_VERSIONS: Final = {
    "application/openmetrics-text": ("", "1.0.0"),
    "text/plain": ("", "0.0.4", "1.0.0"),
}
"""What can be asked for. Others are not given to prometheus_client, which promises any version
that it is asked for."""


class Encoder:
    """Writes one format. Each is there once: see `encoder_for()`."""

    def __init__(self, content_type: str, encode: Callable[[_Metrics], bytes]) -> None:
        self.content_type = content_type
        self._encode = encode
        self._end = self._text()
        self._heads: dict[Family, str] = {}
        self._lines: dict[tuple[object, ...], str] = {}
        """Of the application's metrics: their heads, and what is before the value in each line."""

    def encode(self, readings: Iterable[Reading], further: Sequence[Metric] = ()) -> bytes:
        """The whole exposition.

        Args:
            readings: Of the server.
            further: Metrics that are written as they are; none has the name of another.
        """
        parts = []
        for family, values in readings:
            parts.append(self._heads.get(family) or self._head(family))
            for series, numbers in values:
                template = series.templates.get(self.content_type) or self._template(series)
                parts.append(template % tuple(map(format_value, numbers)))
        parts += map(self._further, further)
        parts.append(self._end)
        return "".join(parts).encode()

    def _further(self, metric: Metric) -> str:
        """A metric of the application. The beginnings of its lines are known from the last time."""
        if any(s.timestamp or s.exemplar or s.name.endswith(_APART) for s in metric.samples):
            return self._body(metric)
        known = self._lines
        if len(known) > _KNOWN_LINES:
            known.clear()
        parts = [self._further_head(metric)]
        for sample in metric.samples:
            key = metric.type, sample.name, *sample.labels.items()
            line = known.get(key)
            if line is None:
                line = known[key] = self._line(metric, sample)
            parts.append(f"{line} {format_value(sample.value)}\n")
        return "".join(parts)

    def _further_head(self, metric: Metric) -> str:
        key = metric.name, metric.documentation, metric.type, metric.unit
        head = self._lines.get(key)
        if head is None:
            head = self._lines[key] = self._body(Metric(*key))
        return head

    def _line(self, metric: Metric, sample: Sample) -> str:
        """The beginning of a line: all but the value."""
        one = Metric(metric.name, metric.documentation, metric.type, metric.unit)
        one.samples = [sample._replace(value=0.0)]
        line = self._body(one).removeprefix(self._further_head(metric))
        assert line.endswith(f"{_ZERO}\n"), line
        return line.removesuffix(f"{_ZERO}\n")

    def _text(self, *metrics: Metric) -> str:
        return self._encode(_Metrics(metrics)).decode()

    def _body(self, metric: Metric) -> str:
        return self._text(metric).removesuffix(self._end)

    def _head(self, family: Family) -> str:
        head = self._heads[family] = self._body(family.metric())
        return head

    def _template(self, series: Series) -> str:
        family = series.family
        zeros = Reading(family, [(series, [0] * len(series.samples))]).metric()
        lines = self._body(zeros).removeprefix(self._head(family)).splitlines()
        assert len(lines) == len(series.samples), lines
        assert all(line.endswith(_ZERO) for line in lines), lines
        template = "".join(f"{line.removesuffix(_ZERO).replace('%', '%%')} %s\n" for line in lines)
        series.templates[self.content_type] = template
        return template


class _Metrics:
    """What prometheus_client takes for a registry."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


_encoders: dict[str, Encoder] = {}


def encoder_for(accept: str) -> Encoder:
    """The encoder for the format that the client likes best (RFC 9110 section 12.5.1), by default
    the text format 0.0.4.

    Args:
        accept: Accept fields, joined by commas.
    """
    encode, content_type = choose_encoder(_best(accept))
    encoder = _encoders.get(content_type)
    if encoder is None:
        encoder = _encoders[content_type] = Encoder(content_type, encode)
    return encoder


def _best(accept: str) -> str:
    """The best of the formats that there are: prometheus_client takes the first one that has a
    version, whatever its weight, and fails at versions that are no numbers."""
    for name, parameters in preferences(accept):
        version = parameters.get("version", "")
        if version in _VERSIONS.get(name, ()):
            parts = [name, f"version={version}"] if version else [name]
            if "escaping" in parameters:
                parts.append(f"escaping={parameters['escaping']}")
            return ";".join(parts)
    return ""
