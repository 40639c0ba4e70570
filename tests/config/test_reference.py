"""The reference page names every option, completely and in valid Markdown."""

from __future__ import annotations

import re

import pytest

from pounce.config import OPTIONS
from pounce.config.options import Group
from pounce.config.reference import reference_markdown

# The unescaped end of a cell.
_CELL_END = re.compile(r"(?<!\\)\|")


def rows() -> dict[str, list[str]]:
    """The cells of each row by the key of its option."""
    found = {}
    for line in reference_markdown().splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in _CELL_END.split(line)[1:-1]]
            found[cells[0].rpartition("<br>")[2].strip("`")] = cells
    return found


def test_every_option_has_a_row_in_the_order_of_the_groups() -> None:
    ordered = [name for group in Group for name, o in OPTIONS.items() if o.group is group]
    assert list(rows()) == ordered


def test_groups_are_the_headings() -> None:
    headings = re.findall(r"^## (.*)$", reference_markdown(), re.MULTILINE)
    assert headings == [group.value for group in Group]


@pytest.mark.parametrize("name", OPTIONS)
def test_row_has_flags_variable_key_type_default_and_meaning(name: str) -> None:
    option = OPTIONS[name]
    names, kind, default, meaning = rows()[name]
    assert names == "<br>".join(f"`{text}`" for text in (*option.flags, option.env, name))
    plain = meaning.replace("\\", "")
    assert plain.startswith(option.help.replace("\\", ""))
    assert kind.replace("\\", "") == option.kind.label
    if default != "not set":
        assert option.parse(default.strip("`"), label=name) == option.default


def test_tables_are_whole() -> None:
    for line in reference_markdown().splitlines():
        if line.startswith("|"):
            assert len(_CELL_END.findall(line)) == 5, line


def test_what_else_is_read_is_told() -> None:
    assert "`WEB_CONCURRENCY`" in rows()["workers"][3]
    assert "`FORWARDED_ALLOW_IPS`" in rows()["forwarded_allow_ips"][3]
    assert "commas separate" in rows()["reload_dirs"][3]
    assert "line ends separate" in rows()["headers"][3]
    assert "Never shown" in rows()["ssl_keyfile_password"][3]
