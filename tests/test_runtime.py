"""CPUs under affinity and cgroup quotas, the mode of workers, the limit of descriptors."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce import runtime
from pounce.runtime import (
    WorkerMode,
    available_cpus,
    event_loop_factory,
    gil_enabled,
    raise_fd_limit,
    worker_mode,
)

SCHEDULABLE = 64

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = (
    "33 23 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:7 - cgroup cgroup rw,cpu,cpuacct"
)
V1_OTHER_MOUNT = "34 23 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:8 - cgroup cgroup rw,memory"
DISK_MOUNT = "23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"


class Machine:
    """A made-up procfs and cgroup file system."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.cgroup = root / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        self.cgroup.mkdir()

    def process(self, *cgroups: str, mounts: tuple[str, ...] = ()) -> None:
        (self.proc / "self/cgroup").write_text("".join(f"{line}\n" for line in cgroups))
        if mounts:
            (self.proc / "self/mountinfo").write_text("".join(f"{line}\n" for line in mounts))

    def v2(self, path: str, cpu_max: str) -> None:
        directory = self.cgroup / path
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cpu.max").write_text(cpu_max + "\n")

    def v1(self, path: str, quota: str, period: str = "100000") -> None:
        directory = self.cgroup / path
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cpu.cfs_quota_us").write_text(quota + "\n")
        (directory / "cpu.cfs_period_us").write_text(period + "\n")

    @property
    def cpus(self) -> int:
        return available_cpus(proc_root=self.proc, cgroup_root=self.cgroup)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(runtime, "_schedulable_cpus", lambda: SCHEDULABLE)
    return Machine(tmp_path)


def test_without_procfs_affinity_alone_counts(machine: Machine) -> None:
    assert machine.cpus == SCHEDULABLE


def test_without_a_quota_affinity_alone_counts(machine: Machine) -> None:
    machine.process("0::/", mounts=(DISK_MOUNT, V2_MOUNT))
    assert machine.cpus == SCHEDULABLE


@pytest.mark.parametrize("mounts", [(DISK_MOUNT, V2_MOUNT), ()])
@pytest.mark.parametrize(
    ("cpu_max", "expected"),
    [
        ("max 100000", SCHEDULABLE),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("100001 100000", 2),
        ("100000 100000", 1),
        ("1000 100000", 1),
        ("50000 50000", 1),
        ("9999900000 100000", SCHEDULABLE),
        ("", SCHEDULABLE),
        ("200000", SCHEDULABLE),
        ("many 100000", SCHEDULABLE),
        ("200000 0", SCHEDULABLE),
        ("-1 100000", SCHEDULABLE),
        ("0 100000", SCHEDULABLE),
    ],
)
def test_v2_quota_in_a_container(
    machine: Machine, mounts: tuple[str, ...], cpu_max: str, expected: int
) -> None:
    machine.process("0::/", mounts=mounts)
    machine.v2("", cpu_max)
    assert machine.cpus == expected


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({"a/b/c": "300000 100000"}, 3),
        ({"a/b": "200000 100000"}, 2),
        ({"a": "400000 100000"}, 4),
        ({"": "500000 100000"}, 5),
        ({"a/b/c": "max 100000", "a": "400000 100000"}, 4),
        ({"a/b/c": "600000 100000", "a/b": "150000 100000", "a": "400000 100000"}, 2),
        ({"a/b/c": "100000 100000", "a": "400000 100000"}, 1),
        ({"a/b/other": "100000 100000", "a/b/c/below": "100000 100000"}, SCHEDULABLE),
    ],
)
def test_v2_smallest_quota_on_the_way_to_the_root_counts(
    machine: Machine, quotas: dict[str, str], expected: int
) -> None:
    machine.process("0::/a/b/c", mounts=(V2_MOUNT,))
    for path, cpu_max in quotas.items():
        machine.v2(path, cpu_max)
    assert machine.cpus == expected


@pytest.mark.parametrize("path", ["/..", "/../../other", "/gone/since"])
def test_v2_cgroup_that_cannot_be_seen_leaves_that_of_the_mount(
    machine: Machine, path: str
) -> None:
    machine.process(f"0::{path}", mounts=(V2_MOUNT,))
    machine.v2("", "200000 100000")
    (machine.cgroup.parent / "cpu.max").write_text("100000 100000\n")
    assert machine.cpus == 2


def test_v2_mounted_elsewhere(machine: Machine, tmp_path: Path) -> None:
    mount = tmp_path / "my cgroups"
    escaped = str(mount).replace(" ", "\\040")
    (mount / "a").mkdir(parents=True)
    (mount / "a/cpu.max").write_text("300000 100000\n")
    machine.process("0::/a", mounts=(f"30 23 0:26 / {escaped} rw - cgroup2 none rw",))
    machine.v2("a", "100000 100000")
    assert machine.cpus == 3


def test_v2_subtree_mounted(machine: Machine) -> None:
    machine.process(
        "0::/docker/abc/app",
        mounts=("30 23 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw",),
    )
    machine.v2("app", "300000 100000")
    assert machine.cpus == 3
    machine.v2("", "200000 100000")
    assert machine.cpus == 2


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [
        ("-1", "100000", SCHEDULABLE),
        ("200000", "100000", 2),
        ("250000", "100000", 3),
        ("10000", "100000", 1),
        ("100000", "50000", 2),
        ("0", "100000", SCHEDULABLE),
        ("200000", "0", SCHEDULABLE),
        ("", "", SCHEDULABLE),
        ("200000", "", SCHEDULABLE),
    ],
)
@pytest.mark.parametrize("mounts", [(DISK_MOUNT, V1_OTHER_MOUNT, V1_MOUNT), ()])
def test_v1_quota_in_a_container(
    machine: Machine, mounts: tuple[str, ...], quota: str, period: str, expected: int
) -> None:
    machine.process("5:memory:/", "4:cpu,cpuacct:/", "1:name=systemd:/", mounts=mounts)
    machine.v1("cpu,cpuacct", quota, period)
    machine.v1("memory", "100000")
    assert machine.cpus == expected


def test_v1_in_the_conventional_place_without_mountinfo(machine: Machine) -> None:
    machine.process("3:cpu:/a")
    machine.v1("cpu/a", "300000")
    assert machine.cpus == 3
    machine.v1("cpu", "200000")
    assert machine.cpus == 2


def test_v1_path_of_the_host_in_a_container_that_mounts_its_own_part(machine: Machine) -> None:
    machine.process(
        "4:cpu,cpuacct:/docker/abc",
        mounts=(V1_MOUNT.replace("0:29 / ", "0:29 /docker/abc "),),
    )
    machine.v1("cpu,cpuacct", "200000")
    assert machine.cpus == 2


def test_v1_smallest_quota_on_the_way_to_the_root_counts(machine: Machine) -> None:
    machine.process("4:cpu,cpuacct:/kubepods/pod/one", mounts=(V1_MOUNT,))
    machine.v1("cpu,cpuacct/kubepods/pod/one", "-1")
    machine.v1("cpu,cpuacct/kubepods/pod", "300000")
    machine.v1("cpu,cpuacct/kubepods", "800000")
    machine.v1("cpu,cpuacct/other", "100000")
    assert machine.cpus == 3


def test_both_versions_at_once(machine: Machine) -> None:
    machine.process(
        "4:cpu,cpuacct:/a",
        "0::/b",
        mounts=(V1_MOUNT, V2_MOUNT.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")),
    )
    machine.v1("cpu,cpuacct/a", "400000")
    assert machine.cpus == 4
    machine.v2("unified/b", "300000 100000")
    assert machine.cpus == 3
    machine.v1("cpu,cpuacct/a", "200000")
    assert machine.cpus == 2


def test_affinity_counts_where_it_is_less_than_the_quota(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_schedulable_cpus", lambda: 3)
    machine.process("0::/")
    machine.v2("", "800000 100000")
    assert machine.cpus == 3
    machine.v2("", "200000 100000")
    assert machine.cpus == 2


@pytest.mark.parametrize(
    ("cgroup", "mountinfo"),
    [
        (b"", b""),
        (b"\xff\xfe\n::\n0\n0:\n", b"\xff\n - \n30 23 0:26 / - cgroup2\n"),
        (b"0::/\n", b"30 23 0:26 / /sys/fs/cgroup rw - cgroup2\n"),
    ],
)
def test_malformed_procfs_sets_no_limit(machine: Machine, cgroup: bytes, mountinfo: bytes) -> None:
    (machine.proc / "self/cgroup").write_bytes(cgroup)
    (machine.proc / "self/mountinfo").write_bytes(mountinfo)
    assert machine.cpus == SCHEDULABLE


@given(st.integers(1, 10**7), st.integers(1000, 10**6), st.integers(1, 256))
def test_quota_is_rounded_up_and_bounded(quota: int, period: int, affinity: int) -> None:
    cpus = runtime._whole_cpus(str(quota), str(period))
    assert cpus == math.ceil(Fraction(quota, period))
    assert cpus is not None
    assert 1 <= min(cpus, affinity) <= affinity
    # Never less than what may be used, and less than one CPU above it.
    assert 0 <= cpus * period - quota < period


def test_this_machine_has_at_least_one_cpu() -> None:
    cpus = available_cpus()
    assert 1 <= cpus <= (os.cpu_count() or 1)


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_affinity_is_respected() -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, [{one}])\n"
        "from pounce.runtime import available_cpus; print(available_cpus())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("answer", "mode"),
    [(lambda: True, WorkerMode.PROCESS), (lambda: False, WorkerMode.THREAD)],
)
def test_worker_mode_follows_the_gil(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[], bool], mode: WorkerMode
) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", answer, raising=False)
    assert gil_enabled() is answer()
    assert worker_mode() is mode
    assert worker_mode("auto") is mode
    for asked in WorkerMode:
        assert worker_mode(asked) is asked


@pytest.mark.parametrize(
    ("version", "gil", "name"),
    [
        ("0.21.0", False, "asyncio"),
        ("0.22.0", False, "uvloop"),
        ("1.0.0.dev1", False, "uvloop"),
        ("0.21.0", True, "uvloop"),
    ],
)
def test_the_event_loop_does_not_turn_the_gil_on(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    version: str,
    gil: bool,
    name: str,
) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: gil, raising=False)
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    with caplog.at_level(logging.DEBUG, logger="pounce.error"):
        factory = event_loop_factory("auto")
    assert (factory is asyncio.new_event_loop) is (name == "asyncio")
    assert ("would turn the GIL on" in caplog.text) is (name == "asyncio")
    assert event_loop_factory("uvloop").__module__ == "uvloop"


def test_interpreters_that_cannot_tell_have_the_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys, "_is_gil_enabled", raising=False)
    assert gil_enabled()
    assert worker_mode() == "process"


class Limits:
    """Stands in for the system's RLIMIT_NOFILE."""

    def __init__(self, soft: int, hard: int, most: int | None = None) -> None:
        self.values = (soft, hard)
        self._most = most

    def get(self, which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_NOFILE
        return self.values

    def set(self, which: int, values: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NOFILE
        if self._most is not None and values[0] > self._most:
            raise ValueError("current limit exceeds maximum limit")
        self.values = values


@pytest.mark.parametrize(
    ("soft", "hard", "most", "expected"),
    [
        (1024, 4096, None, 4096),
        (4096, 4096, None, 4096),
        (1024, 2**30, None, 2**20),
        (2**21, 2**30, None, 2**21),
        (1024, resource.RLIM_INFINITY, None, 2**20),
        (256, resource.RLIM_INFINITY, 10_240, 10_240),
        (256, resource.RLIM_INFINITY, 256, 256),
        (20_000, resource.RLIM_INFINITY, 20_000, 20_000),
    ],
)
def test_soft_limit_of_descriptors_is_raised(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int | None, expected: int
) -> None:
    limits = Limits(soft, hard, most)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    assert raise_fd_limit() == expected
    assert limits.values == (expected, hard)


def test_infinite_soft_limit_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(resource.RLIM_INFINITY, resource.RLIM_INFINITY, 0)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    assert raise_fd_limit() == 2**20
    assert limits.values[0] == resource.RLIM_INFINITY


def test_limit_of_a_process_is_raised_in_truth() -> None:
    code = (
        "import resource as r; from pounce.runtime import raise_fd_limit\n"
        "hard = min(r.getrlimit(r.RLIMIT_NOFILE)[1], 4096)\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, hard))\n"
        "print(raise_fd_limit() == hard == r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
