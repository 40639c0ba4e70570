"""Reads a chain while another process publishes, changes and frees blocks of it: a program.

python busy_chain.py CHANGES
"""

from __future__ import annotations

import json
import os
import random
import sys
import traceback

from pounce.shm import names
from pounce.shm.arena import Arena
from pounce.shm.chain import Block, ChainReader, ChainWriter
from pounce.shm.layout import Counter, Layout

KEYS = 20
DONE = -1


def write(name: str, changes: int) -> None:
    """A block has its key in the first cell and in its bytes, and a number that only grows, for
    each key from where it was when the last block of that key was freed."""
    writer = ChainWriter(name, segment_size=1024)
    chosen = random.Random(1)
    published: dict[int, Block] = {}
    numbers = [0] * KEYS
    for _ in range(changes):
        key = chosen.randrange(KEYS)
        block = published.pop(key, None)
        if block is not None and chosen.random() < 0.3:
            writer.free(block)
            continue
        if block is None:
            block = writer.allocate(16 + chosen.randrange(60))
            block.content.cast("q")[:1] = memoryview(key.to_bytes(8, sys.byteorder)).cast("q")
            block.content[16:] = bytes([key]) * (len(block.content) - 16)
            block.content.cast("q")[1] = numbers[key]
            writer.publish(block)
        published[key] = block
        numbers[key] += 1
        block.content.cast("q")[1] = numbers[key]
    end = writer.allocate(16)
    end.content.cast("q")[0] = DONE
    writer.publish(end)
    writer.close()


def read(name: str) -> dict[str, int]:
    reader = ChainReader(name)
    last = [0] * KEYS
    good = retried = 0
    while True:
        copies = [bytes(block.content) for block in reader.blocks()]
        if not reader.is_current():
            retried += 1
            continue
        keys = []
        for copy in copies:
            key, number = memoryview(copy)[:16].cast("q")
            if key == DONE:
                return {"good": good, "retried": retried, "counted": sum(last)}
            assert copy[16:] == bytes([key]) * (len(copy) - 16), copy
            assert number >= last[key], (number, last[key])
            last[key] = number
            keys.append(key)
            good += 1
        assert len(set(keys)) == len(keys), keys


def main(changes: int) -> None:
    with Arena.create(Layout((Counter("nothing"),))) as arena:
        assert arena.name is not None
        run(names.further_name(arena.name, 0), changes)


def run(name: str, changes: int) -> None:
    writer = os.fork()
    if not writer:
        try:
            write(name, changes)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    found = read(name)
    assert os.waitpid(writer, 0)[1] == 0
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
