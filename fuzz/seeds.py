"""Writes the corpus of the tests as raw bytes: `python -m fuzz.seeds FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.protocol.bodies import CHUNKED, MALFORMED
from tests.protocol.h2.conformance_cases import CASES
from tests.protocol.heads import SEEDS
from tests.protocol.streams import load


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    streams = [case.stream for kind in ("valid", "invalid") for case in load(kind).values()]
    for number, data in enumerate((*streams, *SEEDS, *CHUNKED, *MALFORMED)):
        # The first byte says how the targets that cut their input do so.
        (folder / f"{number:04}").write_bytes(data)
        (folder / f"{number:04}-cut").write_bytes(b"\x00" + data)
    for number, case in enumerate(CASES):
        (folder / f"h2-{number:04}").write_bytes(b"\x00" + case.sent)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
