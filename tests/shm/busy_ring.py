"""Reads a ring and a black box while another process writes them: a program.

python busy_ring.py RECORDS
"""

from __future__ import annotations

import json
import os
import sys
import traceback

from pounce.shm.arena import Arena
from pounce.shm.layout import Counter, Layout

LAYOUT = Layout(
    (Counter("requests"),),
    black_box_records=3,
    black_box_size=64,
    ring_records=16,
    ring_size=64,
)


def text_of(number: int) -> bytes:
    """Of any length from 12 to 63, and different for each number."""
    digits = b"%d " % number
    return digits.ljust(12 + number % 52, b"abcdefgh"[number % 8 : number % 8 + 1])


def write(name: str, records: int) -> None:
    slot = Arena.attach(name, LAYOUT).slots[0]
    ring, box = slot.ring_writer(), slot.black_box_writer()
    token = -1
    for number in range(records):
        box.release(token)
        token = box.take(number, text_of(number))
        slot.cells[0] += 1
        ring.write(text_of(number))
        if number % 64 == 63:
            os.sched_yield()


def read(arena: Arena, records: int) -> dict[str, object]:
    slot = arena.slots[0]
    reader = slot.ring_reader()
    delivered = seen_in_box = 0
    next_number = total = 0
    while reader.position < records:
        for record in reader.read():
            number = int(record.split()[0])
            assert record == text_of(number)
            assert number >= next_number
            next_number = number + 1
            delivered += 1
        assert delivered + reader.missed == reader.position
        for stamp, text in slot.read_black_box():
            assert text == text_of(stamp)
            seen_in_box += 1
        (new_total,) = arena.totals()
        assert total <= new_total
        assert reader.position <= new_total
        total = new_total
    return {"delivered": delivered, "missed": reader.missed, "in box": seen_in_box}


def main(records: int) -> None:
    with Arena.create(LAYOUT) as arena:
        assert arena.name is not None
        arena.acquire(1, 1)
        writer = os.fork()
        if not writer:
            try:
                write(arena.name, records)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        found = read(arena, records)
        assert os.waitpid(writer, 0)[1] == 0
        assert arena.totals() == [records]
        print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
