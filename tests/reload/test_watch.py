from __future__ import annotations

import importlib.util
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.reload import watch as file_watch
from pounce.reload.watch import FileFilter, FileWatcher, changed_files, outermost, snapshot
from tests.waiting import PATIENCE

HAS_WATCHFILES = importlib.util.find_spec("watchfiles") is not None


# Which files


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("app.py", True),
        ("package/module.py", True),
        ("app.pyc", False),
        ("settings.toml", False),
        ("app.py~", False),
        (".hidden.py", False),
        (".venv/lib/module.py", False),
        ("package/.git/hook.py", False),
        ("package/__pycache__/module.py", False),
        ("node_modules/x/setup.py", False),
        ("env/lib/python3.11/site-packages/x.py", False),
        ("py", False),
    ],
)
def test_python_sources_are_wanted_by_default(path: str, wanted: bool) -> None:
    assert FileFilter().wants("/srv/app", path) is wanted


@pytest.mark.parametrize(
    ("includes", "excludes", "path", "wanted"),
    [
        (["*.html"], [], "templates/a/index.html", True),
        (["*.html"], [], "app.py", True),  # adds to the default
        (["templates/*.html"], [], "templates/index.html", True),
        (["templates/*.html"], [], "templates/a/index.html", False),
        (["templates/**/*.html"], [], "templates/index.html", True),
        (["templates/**/*.html"], [], "templates/a/b/index.html", True),
        (["**/*.html"], [], "index.html", True),
        (["static/**"], [], "static/a/b.css", True),
        (["./conf/app.toml"], [], "conf/app.toml", True),
        (["/srv/app/conf/*"], [], "conf/app.toml", True),
        (["/srv/other/conf/*"], [], "conf/app.toml", False),
        (["conf.[tj]*"], [], "conf.json", True),
        (["x/conf.[!tj]*"], [], "x/conf.json", False),
        (["x/conf.[!tj]*"], [], "x/conf.yaml", True),
        (["x/?.txt"], [], "x/a.txt", True),
        (["x/?.txt"], [], "x/ab.txt", False),
        ([], ["test_*.py"], "tests/test_app.py", False),
        ([], ["tests"], "tests/test_app.py", False),
        ([], ["tests/"], "a/tests/test_app.py", False),
        ([], ["a/tests"], "a/tests/deep/test_app.py", False),
        ([], ["a/tests"], "b/a/tests/test_app.py", True),
        ([], ["/srv/app/a"], "a/b.py", False),
        (["*.py"], ["*.py"], "app.py", False),  # excludes win
        ([], ["*.py"], "app.py", False),
        ([".*"], [], ".env", True),  # a default taken back
        (["venv"], [], "venv/app.py", True),
    ],
)
def test_patterns_add_to_the_defaults(
    includes: list[str], excludes: list[str], path: str, wanted: bool
) -> None:
    assert FileFilter(includes, excludes).wants("/srv/app", path) is wanted


# How changes are found


def write(path: Path, content: str = "") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return str(path)


@given(st.dictionaries(st.text(max_size=2), st.integers(0, 2)), st.data())
def test_the_difference_of_two_snapshots_is_what_must_be_touched_to_get_from_one_to_the_other(
    before: dict[str, int], data: st.DataObject
) -> None:
    after = data.draw(st.dictionaries(st.text(max_size=2), st.integers(0, 2)))
    patched = dict(before)
    for path in changed_files(before, after):
        assert before.get(path) != after.get(path)
        if path in after:
            patched[path] = after[path]
        else:
            del patched[path]
    assert patched == after


def test_a_snapshot_holds_the_wanted_files_only(tmp_path: Path) -> None:
    wanted = {write(tmp_path / "app.py"), write(tmp_path / "a" / "b.py")}
    write(tmp_path / "a" / "notes.txt")
    write(tmp_path / ".venv" / "x.py")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "gone.py").symlink_to(tmp_path / "nowhere")
    assert set(snapshot([str(tmp_path)], FileFilter())) == wanted


def test_a_snapshot_agrees_with_the_filter(tmp_path: Path) -> None:
    paths = ["app.py", "a/b/c.py", "a/skip/d.py", "a/x.html", ".e/f.py", "__pycache__/g.py"]
    for path in paths:
        write(tmp_path / path)
    file_filter = FileFilter(["a/*.html"], ["a/skip"])
    expected = {str(tmp_path / p) for p in paths if file_filter.wants(str(tmp_path), p)}
    assert set(snapshot([str(tmp_path)], file_filter)) == expected


@pytest.mark.parametrize("change", ["written", "replaced", "removed", "made", "renamed"])
def test_every_kind_of_change_is_seen(tmp_path: Path, change: str) -> None:
    path = tmp_path / "app.py"
    write(path, "1")
    before = snapshot([str(tmp_path)], FileFilter())
    expected = {str(path)}
    match change:
        case "written":
            write(path, "two")
        case "replaced":
            # As editors do: same size and, at worst, same time.
            status = path.stat()
            fresh = tmp_path / "fresh"
            write(fresh, "2")
            os.utime(fresh, ns=(status.st_atime_ns, status.st_mtime_ns))
            os.replace(fresh, path)
        case "removed":
            path.unlink()
        case "made":
            expected = {write(tmp_path / "new.py")}
        case "renamed":
            path.rename(tmp_path / "other.py")
            expected.add(str(tmp_path / "other.py"))
    assert changed_files(before, snapshot([str(tmp_path)], FileFilter())) == expected


def test_a_directory_inside_another_is_watched_once(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / ".hidden" / "c").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a")
    names = ["a", ".", "a/b", "link", ".hidden/c", "a"]
    roots = outermost([str(tmp_path / name) for name in names], FileFilter())
    # The hidden one is not seen from outside, so it counts for itself.
    assert roots == [str(tmp_path), str(tmp_path / ".hidden" / "c")]


# The watcher


Watch = Callable[..., "queue.Queue[list[str]]"]
METHODS = [
    pytest.param(False, id="stat"),
    pytest.param(
        True,
        id="events",
        marks=pytest.mark.skipif(not HAS_WATCHFILES, reason="watchfiles is not installed"),
    ),
]


@pytest.fixture(params=METHODS)
def watch(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watch]:
    with ExitStack() as stack:

        def begin(**options: Any) -> queue.Queue[list[str]]:
            reports: queue.Queue[list[str]] = queue.Queue()
            settings: dict[str, Any] = {"delay": 0.02, "use_events": request.param} | options
            stack.enter_context(
                FileWatcher([str(tmp_path)], FileFilter(), on_change=reports.put, **settings)
            )
            return reports

        yield begin


def test_a_change_is_reported(watch: Watch, tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    write(path, "1")
    reports = watch()
    for content in ("22", "333"):
        write(path, content)
        assert reports.get(timeout=PATIENCE) == [str(path)]


def test_files_that_are_not_wanted_are_not_reported(watch: Watch, tmp_path: Path) -> None:
    reports = watch()
    write(tmp_path / "data.txt")
    write(tmp_path / "__pycache__" / "app.py")
    wanted = write(tmp_path / "deep" / "app.py")
    assert reports.get(timeout=PATIENCE) == [wanted]


def test_a_burst_of_changes_is_one_report(watch: Watch, tmp_path: Path) -> None:
    # Only their names are new, so that nothing can last between the first one and the last.
    made = [Path(write(tmp_path / f"m{number}.made")) for number in range(20)]
    reports = watch(delay=0.3)
    renamed = [path.rename(path.with_suffix(".py")) for path in made]
    expected = sorted(map(str, renamed))
    assert reports.get(timeout=PATIENCE) == expected


def test_changes_without_an_end_are_reported_all_the_same(
    watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_watch, "BURST_MAX", 0.2)
    reports = watch(delay=0.05)
    finished = threading.Event()

    def keep_writing() -> None:
        count = 0
        while not finished.wait(0.01):
            count += 1
            write(tmp_path / "app.py", "x" * count)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        assert reports.get(timeout=PATIENCE) == [str(tmp_path / "app.py")]
    finally:
        finished.set()
        writer.join()


def test_a_directory_that_goes_and_comes_back_stays_watched(watch: Watch, tmp_path: Path) -> None:
    path = tmp_path / "package" / "module.py"
    write(path)
    reports = watch()
    shutil.rmtree(path.parent)
    assert str(path) in reports.get(timeout=PATIENCE)
    write(path, "back")
    assert str(path) in reports.get(timeout=PATIENCE)


def test_a_directory_that_is_renamed_as_a_whole_is_noticed(watch: Watch, tmp_path: Path) -> None:
    before = write(tmp_path / "package" / "module.py")
    reports = watch()
    (tmp_path / "package").rename(tmp_path / "renamed")
    assert reports.get(timeout=PATIENCE) == [before, str(tmp_path / "renamed" / "module.py")]


def test_the_files_are_looked_at_where_there_are_no_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Watchfiles:
        @staticmethod
        def watch(*_: object, **__: object) -> Iterator[object]:
            raise OSError("inotify watch limit reached")
            yield

    monkeypatch.setattr(file_watch.importlib, "import_module", lambda name: Watchfiles)
    reports: queue.Queue[list[str]] = queue.Queue()
    with FileWatcher(
        [str(tmp_path)], FileFilter(), delay=0.02, on_change=reports.put, use_events=True
    ):
        path = write(tmp_path / "app.py")
        assert reports.get(timeout=PATIENCE) == [path]
    assert "inotify watch limit reached" in caplog.text


def test_what_changes_before_the_events_begin_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = threading.Event()

    class Watchfiles:
        @staticmethod
        def watch(*_: object, stop_event: threading.Event, **__: object) -> Iterator[object]:
            begin.wait(PATIENCE)
            while not stop_event.wait(0.01):
                yield set()

    monkeypatch.setattr(file_watch.importlib, "import_module", lambda name: Watchfiles)
    reports: queue.Queue[list[str]] = queue.Queue()
    with FileWatcher(
        [str(tmp_path)], FileFilter(), delay=0.02, on_change=reports.put, use_events=True
    ):
        path = write(tmp_path / "app.py")
        begin.set()
        assert reports.get(timeout=PATIENCE) == [path]
