"""Autobahn's fuzzing client (https://github.com/crossbario/autobahn-testsuite) against the real
server: RFC 6455, and a part of its many cases of RFC 7692.

`scripts/install-autobahn` installs it where Python 2.7 can be had; AUTOBAHN_WSTEST names another.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.integration.server_process import ROOT, ServerProcess

WSTEST = Path(os.environ.get("AUTOBAHN_WSTEST", ROOT / ".autobahn/bin/wstest"))

APP = "bench.apps.plain:app"

# 9 are the large messages; 12 and 13 repeat the same for each size, kind of text and parameters.
GROUPS = {
    "framing": ["1.*", "2.*", "3.*", "4.*", "5.*", "10.*"],
    "text": ["6.*"],
    "close": ["7.*"],
    "size": [f"9.{number}.*" for number in range(1, 5)],
    "pieces": [f"9.{number}.*" for number in range(5, 9)],
    "deflate": ["12.1.1", "12.2.7", "13.1.1", "13.3.5", "13.5.2", "13.7.3"],
}


@pytest.mark.skipif(
    not WSTEST.exists(), reason="no Autobahn: scripts/install-autobahn, which needs Python 2.7"
)
@pytest.mark.parametrize("group", GROUPS)
def test_no_case_fails(group: str, tmp_path: Path) -> None:
    with ServerProcess(APP, "--no-access-log", cwd=ROOT) as server:
        spec = {
            "outdir": str(tmp_path / "reports"),
            "servers": [{"agent": "pounce", "url": f"ws://127.0.0.1:{server.port}"}],
            "cases": GROUPS[group],
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        command = [str(WSTEST), "-m", "fuzzingclient", "-s", str(tmp_path / "spec.json")]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=100)
    report = json.loads((tmp_path / "reports" / "index.json").read_text())["pounce"]
    assert report
    strict = {"OK", "INFORMATIONAL"}
    assert {
        case: (result["behavior"], result["behaviorClose"])
        for case, result in report.items()
        if not {result["behavior"], result["behaviorClose"]} <= strict
    } == {}
