"""The kinds of values that options take: how each is read from text, TOML and Python.

Every kind reads its own result back unchanged, so that a configuration can be built from the
values of another one.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pounce.units import (
    DURATION_FORM,
    SIZE_FORM,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_OCTAL: Final = re.compile(r"(?:0o)?[0-7]{1,6}", re.ASCII | re.IGNORECASE)
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


class Kind(ABC):
    """One kind of value."""

    label: str
    """What is accepted, as the reference page names it."""
    metavar: str
    """What stands for the value in the help of the command."""

    @abstractmethod
    def parse(self, value: object) -> object:
        """The value proper; raises ValueError ("expected ...") for what is not of this kind."""

    def parse_toml(self, value: object) -> object:
        """The same for a value from a TOML file."""
        return self.parse(value)

    def format(self, value: object) -> str:
        """Text that `parse` turns into `value`, unless items of a list hold the separator."""
        return str(value)


class Text(Kind):
    """Text, with a check of its own where one is given.

    Args:
        check: Returns the text in its normal form, or raises ValueError.
        path: Whether the text is a path, so that `os.PathLike` objects are taken as well.
    """

    def __init__(
        self,
        metavar: str = "TEXT",
        *,
        label: str = "text",
        check: Callable[[str], str] = str,
        path: bool = False,
    ) -> None:
        self.metavar = metavar
        self.label = label
        self._check = check
        self._path = path

    def parse(self, value: object) -> str:
        if self._path and isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str) or "\0" in value:
            raise ValueError(f"expected {self.label}")
        return self._check(value)


class Flag(Kind):
    """Yes or no."""

    metavar = "BOOLEAN"
    label = "true or false"

    def parse(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str):
            word = value.strip().lower()
            if word in _TRUE or word in _FALSE:
                return word in _TRUE
        raise ValueError("expected true or false (1/0, yes/no, on/off)")

    def format(self, value: object) -> str:
        return "true" if value else "false"


class Integer(Kind):
    """A whole number between two bounds."""

    metavar = "INTEGER"

    def __init__(self, minimum: int, maximum: int = 2**31 - 1) -> None:
        self._range = range(minimum, maximum + 1)
        bounds = f"from {minimum}"
        self.label = "whole number " + (
            bounds if maximum == 2**31 - 1 else f"{bounds} to {maximum}"
        )

    def parse(self, value: object) -> int:
        number: object = value
        if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
            number = int(value)
        if isinstance(number, bool) or not isinstance(number, int) or number not in self._range:
            raise ValueError(f"expected a {self.label}")
        return int(number)


class FileMode(Kind):
    """Permission bits of a file; text is octal."""

    metavar = "MODE"
    label = "octal file mode"

    def parse(self, value: object) -> int:
        if isinstance(value, str) and _OCTAL.fullmatch(value.strip()):
            value = int(value, 8)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0o777:
            raise ValueError("expected an octal file mode from 0 to 777")
        return value

    def parse_toml(self, value: object) -> int:
        # TOML reads 440 as decimal; as permission bits that is 0o670, which nobody means.
        if not isinstance(value, str):
            raise ValueError('expected an octal file mode as text, such as "660"')
        return self.parse(value)

    def format(self, value: object) -> str:
        return f"{value:o}"


class Duration(Kind):
    """A duration in seconds, zero only where `zero` says what that means."""

    metavar = "DURATION"

    def __init__(self, *, zero: str | None = None) -> None:
        self._zero = zero is not None
        self.label = f"duration, 0 = {zero}" if zero else "duration above 0"

    def parse(self, value: object) -> float:
        seconds = parse_duration(value)
        if not seconds and not self._zero:
            raise ValueError(f"expected {DURATION_FORM}, above 0")
        return seconds

    def format(self, value: object) -> str:
        return format_duration(parse_duration(value))


class Size(Kind):
    """A size in bytes, zero only where `zero` says what that means."""

    metavar = "SIZE"

    def __init__(
        self, minimum: int = 1, maximum: int | None = None, *, zero: str | None = None
    ) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self._zero = zero is not None
        bounds = f"from {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        self.label = f"size, 0 = {zero}" if zero else f"size {bounds}"

    def parse(self, value: object) -> int:
        size = parse_size(value)
        if size < self._minimum and not (size == 0 and self._zero):
            raise ValueError(f"expected {SIZE_FORM}, at least {self._minimum}")
        if self._maximum is not None and size > self._maximum:
            raise ValueError(f"expected {SIZE_FORM}, at most {self._maximum}")
        return size

    def format(self, value: object) -> str:
        return format_size(parse_size(value))


class Choice(Kind):
    """One of a few words, in any case."""

    def __init__(self, *words: str, aliases: Mapping[str, str] | None = None) -> None:
        self.words = words
        self._accepted = {word: word for word in words} | dict(aliases or {})
        self.metavar = f"[{'|'.join(words)}]"
        self.label = " or ".join((", ".join(words[:-1]), words[-1]))

    def parse(self, value: object) -> str:
        # Numbers are taken for words that are numbers: 1.2 in TOML, ssl.CERT_REQUIRED in Python.
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            word = self._accepted.get(str(value).strip().lower())
            if word is not None:
                return word
        raise ValueError(f"expected {self.label}")


class Either(Kind):
    """A certain word, or a value of another kind."""

    def __init__(self, word: str, kind: Kind) -> None:
        self._word = word
        self._kind = kind
        self.metavar = f"{kind.metavar}|{word}"
        self.label = f"{kind.label}, or {word}"

    def parse(self, value: object) -> object:
        if isinstance(value, str) and value.strip().lower() == self._word:
            return self._word
        try:
            return self._kind.parse(value)
        except ValueError as error:
            raise ValueError(f"{error}, or {self._word}") from None

    def format(self, value: object) -> str:
        return self._word if value == self._word else self._kind.format(value)


class Optional(Kind):
    """A value of another kind, or None, which `none` spells where there is only text."""

    def __init__(self, kind: Kind, *, none: str) -> None:
        self.kind = kind
        self._none = none
        self.metavar = kind.metavar
        self.label = f"{kind.label}, or {none}" if none else kind.label

    def parse(self, value: object) -> object:
        if value is None or (isinstance(value, str) and value.strip().lower() == self._none):
            return None
        try:
            return self.kind.parse(value)
        except ValueError as error:
            raise ValueError(f"{error}, or {self._none}" if self._none else str(error)) from None

    def format(self, value: object) -> str:
        return self._none if value is None else self.kind.format(value)


class Repeated(Kind):
    """Several values of one kind, as a tuple; `separator` stands between them in one text."""

    def __init__(self, kind: Kind, *, separator: str) -> None:
        self._kind = kind
        self._separator = separator
        self.metavar = kind.metavar
        self.label = f"list, each a {kind.label}"

    @property
    def separator_name(self) -> str:
        """What the reference page calls the separator."""
        return {",": "commas", "\n": "line ends"}[self._separator]

    def parse(self, value: object) -> tuple[object, ...]:
        if isinstance(value, str):
            parts: Sequence[object] = [part for part in value.split(self._separator) if part]
        elif isinstance(value, Mapping):
            parts = list(value.items())
        elif isinstance(value, (list, tuple)):
            parts = value
        else:
            raise ValueError(f"expected a {self.label}")
        return tuple(self._kind.parse(part) for part in parts)

    def format(self, value: object) -> str:
        assert isinstance(value, tuple)
        return self._separator.join(self._kind.format(part) for part in value)
