"""Segments: names, reserved pages, ownership, and no tracker that removes what is in use."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pounce.errors import SharedMemoryError
from pounce.shm import names
from pounce.shm import segment as segment_module
from pounce.shm.segment import HEADER_SIZE, Segment, SegmentNotFoundError, unlink
from tests.shm.subprocesses import run_python, start_python

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/shm")


@pytest.fixture
def segment() -> Iterator[Segment]:
    with Segment.create(1000) as made:
        yield made


def exists(name: str | None) -> bool:
    assert name is not None
    try:
        Segment.attach(name).close()
    except SegmentNotFoundError:
        return False
    return True


def test_names_fit_everywhere(segment: Segment) -> None:
    assert segment.name is not None
    assert segment.name.startswith("pounce-")
    longest = "/" + names.further_name(segment.name, 99_999)
    assert len(longest) <= 30  # macOS: PSHMNAMLEN is 31 with the final NUL
    assert names.base_of(names.further_name(segment.name, 3)) == segment.name
    assert names.base_of(segment.name) is None
    if sys.platform == "linux":
        assert segment.name in names.existing_names()


def test_a_new_segment_is_zero_and_of_the_size_asked_for(segment: Segment) -> None:
    assert segment.size == len(segment.content) == 1000
    assert bytes(segment.content) == bytes(1000)


def test_content_is_shared(segment: Segment) -> None:
    assert segment.name is not None
    with Segment.attach(segment.name) as other:
        other.content[5] = 7
        assert segment.content[5] == 7
        assert other.size == 1000
        assert not other.is_owned
    assert exists(segment.name)


def test_the_owner_removes_the_name(segment: Segment) -> None:
    assert segment.is_owned
    view = segment.content
    segment.close()
    segment.close()
    assert not exists(segment.name)
    view[0] = 1  # a late store has somewhere to go


def test_a_name_that_is_taken(segment: Segment) -> None:
    with pytest.raises(SharedMemoryError, match=r"exists already"):
        Segment.create(10, segment.name)
    assert exists(segment.name)


def test_what_is_not_there_cannot_be_attached() -> None:
    with pytest.raises(SegmentNotFoundError, match="does not exist"):
        Segment.attach("pounce-000000")


@LINUX
@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"pouncshm" + b"\x7f" * 200])
def test_other_files_cannot_be_attached(content: bytes) -> None:
    path = names.FOLDER / names.new_name()
    with path.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # or a server that starts takes it for a leftover
        file.write(content)
        file.flush()
        try:
            with pytest.raises(SegmentNotFoundError, match="not complete"):
                Segment.attach(path.name)
        finally:
            path.unlink()


@LINUX
def test_pages_are_reserved() -> None:
    with Segment.create(1 << 20) as segment:
        assert segment.name is not None
        status = os.stat(names.FOLDER / segment.name)
        assert status.st_blocks * 512 >= HEADER_SIZE + (1 << 20)
        assert status.st_mode & 0o777 == 0o600


def test_a_forked_child_removes_nothing(segment: Segment) -> None:
    script = """
        import os, sys
        from pounce.shm.segment import Segment
        segment = Segment.create(100)
        child = os.fork()
        if not child:
            segment.content[0] = 1 + segment.is_owned
            segment.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert segment.content[0] == 1
        Segment.attach(segment.name).close()
        segment.close()
    """
    run_python(script)


ATTACH_AND_END = """
    import multiprocessing.resource_tracker as tracker, sys
    from pounce.shm.segment import Segment
    segment = Segment.attach(sys.argv[1])
    segment.content[0] += 1
    assert tracker._resource_tracker._pid is None
"""


@pytest.mark.parametrize("closes", [False, True])
def test_a_process_that_attached_ends_in_silence(segment: Segment, closes: bool) -> None:
    assert segment.name is not None
    script = ATTACH_AND_END + ("    segment.close()\n" if closes else "")
    assert run_python(script, segment.name) == ""
    assert exists(segment.name)
    assert segment.content[0] == 1


def test_a_worker_of_multiprocessing_ends_in_silence() -> None:
    """Spawned and forked workers share their parent's resource tracker."""
    script = """
        import multiprocessing, sys
        from pounce.shm.segment import Segment

        def work(name):
            Segment.attach(name).content[0] += 1

        if __name__ == "__main__":
            with Segment.create(100) as segment:
                for method in ("spawn", "fork"):
                    context = multiprocessing.get_context(method)
                    worker = context.Process(target=work, args=(segment.name,))
                    worker.start()
                    worker.join()
                    assert worker.exitcode == 0
                assert segment.content[0] == 2
                Segment.attach(segment.name).close()
    """
    assert run_python(script, as_file=True) == ""


def test_adopting_takes_the_name_over(segment: Segment) -> None:
    assert segment.name is not None
    script = """
        import sys
        from pounce.shm.segment import Segment
        segment = Segment.attach(sys.argv[1])
        segment.adopt()
        print("adopted", flush=True)
        sys.stdin.readline()
        segment.close()
    """
    with start_python(script, segment.name) as successor:
        assert successor.stdout is not None
        assert successor.stdout.readline() == "adopted\n"
        assert segment.owner_pid == successor.pid
        assert not segment.is_owned
        segment.close()
        assert exists(segment.name)
    assert not exists(segment.name)


def test_a_name_that_is_gone_cannot_be_adopted(segment: Segment) -> None:
    assert segment.name is not None
    with Segment.attach(segment.name) as other:
        segment.close()
        if sys.platform == "linux":
            with pytest.raises(SegmentNotFoundError, match="gone"):
                other.adopt()


@LINUX
@pytest.mark.parametrize("moment", ["before it is opened again", "before it is locked"])
def test_a_name_that_is_removed_while_it_is_created(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server may take a segment without a lock for a leftover."""
    module, function = {
        "before it is opened again": (segment_module, "open_fd"),
        "before it is locked": (segment_module.name_lock, "hold"),
    }[moment]
    original = getattr(module, function)
    attempts = []

    def lose_and_go_on(argument: object) -> object:
        attempts.append(argument)
        if len(attempts) < 3:
            unlink(created[-1])
        return original(argument)

    def note_name() -> str:
        created.append(new_name())
        return created[-1]

    created: list[str] = []
    new_name = names.new_name
    monkeypatch.setattr(names, "new_name", note_name)
    monkeypatch.setattr(module, function, lose_and_go_on)
    with Segment.create(10) as segment:
        assert segment.name == created[2]
        assert exists(segment.name)


def test_a_failed_creation_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, size: int) -> None:
        raise SharedMemoryError("full")

    monkeypatch.setattr(segment_module, "_reserve", fail)
    name = names.new_name()
    with pytest.raises(SharedMemoryError, match="full"):
        Segment.create(10, name)
    assert not exists(name)


CREATE_OR_SAY_WHY = """
    import sys
    from pounce.errors import SharedMemoryError
    from pounce.shm.segment import Segment
    try:
        segment = Segment.create(1 << 20)
    except SharedMemoryError as error:
        print(error, error.exit_code)
"""


@LINUX
def test_memory_that_cannot_be_reserved_is_an_error_at_once() -> None:
    script = (
        "    import resource\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n" + CREATE_OR_SAY_WHY
    )
    message = f"{HEADER_SIZE + (1 << 20)} bytes of shared memory cannot be reserved: File too large"
    assert run_python(script) == f"{message} 1\n"


def in_own_mounts(mount: str, script: str) -> str:
    """What the script prints where `mount` was done for it alone."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("needs unshare(1)")
    probe = [unshare, "--mount", "true"]
    if sys.platform != "linux" or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    command = [unshare, "--mount", "sh", "-c", mount + ' && exec "$@"', "sh"]
    return run_python(script, prefix=command)


def test_full_shared_memory_is_an_error_at_once() -> None:
    said = in_own_mounts("mount -t tmpfs -o size=256k tmpfs /dev/shm", CREATE_OR_SAY_WHY)
    assert "cannot be reserved: No space left on device (/dev/shm is too small) 1\n" in said


def test_missing_shared_memory_is_an_error_that_says_what_to_do() -> None:
    said = in_own_mounts("mount -t tmpfs tmpfs /dev", CREATE_OR_SAY_WHY)
    assert said == "there is no shared memory: mount a tmpfs on /dev/shm 1\n"


def test_shared_memory_that_may_not_be_written_is_an_error() -> None:
    said = in_own_mounts("mount -t tmpfs -o ro tmpfs /dev/shm", CREATE_OR_SAY_WHY)
    assert said == "shared memory cannot be created in /dev/shm: Read-only file system 1\n"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_workers_of_another_user_may_attach() -> None:
    script = """
        import os, sys
        from pounce.errors import SharedMemoryError
        from pounce.shm.segment import Segment
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            Segment.attach(sys.argv[1]).content[0] = 1
        except SharedMemoryError as error:
            print(error)
    """
    with Segment.create(10, share_with=(65534, 65534)) as shared, Segment.create(10) as private:
        assert shared.name is not None
        assert private.name is not None
        assert run_python(script, shared.name) == ""
        assert shared.content[0] == 1
        assert run_python(script, private.name).endswith("Permission denied\n")


def test_anonymous_memory_is_shared_by_fork() -> None:
    script = """
        import os
        from pounce.shm.segment import Segment
        with Segment.anonymous(100) as segment:
            child = os.fork()
            if not child:
                segment.content[0] = 1
                segment.close()
                os._exit(0)
            os.waitpid(child, 0)
            assert segment.content[0] == 1
            assert segment.name is None
    """
    assert run_python(script) == ""
