from __future__ import annotations

import subprocess
import sys

FORKING = """
import os
from pounce.shm import fence

fence._lock.acquire()
child = os.fork()
if child == 0:
    fence.by_locks()
    os._exit(0)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_that_is_forked_off_while_a_thread_is_in_a_fence_has_its_own() -> None:
    subprocess.run([sys.executable, "-c", FORKING], check=True, timeout=20)
