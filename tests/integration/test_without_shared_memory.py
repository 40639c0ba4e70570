"""Without shared memory, or with too little, the program says so and ends at its start."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

APP = "tests.integration.steered_app:app"
SMALL = "mount -t tmpfs -o size=256k tmpfs /dev/shm"
MISSING = "mount -t tmpfs tmpfs /dev"


def in_own_mounts(mount: str) -> list[str]:
    """A command line before which `mount` is done for it alone."""
    unshare = shutil.which("unshare")
    if sys.platform != "linux" or unshare is None:
        pytest.skip("needs unshare(1)")
    if subprocess.run([unshare, "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    return [unshare, "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]


@pytest.mark.parametrize("options", [["--workers", "2"], ["--metrics"]], ids=["pool", "metrics"])
@pytest.mark.parametrize(
    ("mount", "said"),
    [
        (SMALL, "cannot be reserved: No space left on device (/dev/shm is too small)"),
        (MISSING, "there is no shared memory: mount a tmpfs on /dev/shm"),
    ],
    ids=["full", "missing"],
)
def test_a_server_that_counts_does_not_start(mount: str, said: str, options: list[str]) -> None:
    command = [sys.executable, "-m", "pounce", APP, "--port", "0", *options]
    done = subprocess.run(
        [*in_own_mounts(mount), *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
