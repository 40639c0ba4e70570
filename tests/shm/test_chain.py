"""Chains: blocks that one process hands out and others read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pounce.shm import names
from pounce.shm.arena import Arena
from pounce.shm.chain import Block, ChainReader, ChainWriter, remove_chain
from pounce.shm.layout import Counter, Layout
from pounce.shm.segment import unlink_further
from tests.shm.subprocesses import run_python

SEGMENT_SIZE = 512


@pytest.fixture
def name() -> Iterator[str]:
    base = names.new_name()
    yield names.further_name(base, 7)
    unlink_further(base)


class ChainMachine(RuleBasedStateMachine):
    """A writer that allocates, publishes and frees; readers that come and go."""

    @initialize()
    def begin(self) -> None:
        self.base = names.new_name()
        self.name = names.further_name(self.base, 1)
        self.writer = ChainWriter(self.name, segment_size=SEGMENT_SIZE)
        self.reader = ChainReader(self.name)
        self.allocated: list[Block] = []
        self.content: dict[Block, bytes] = {}
        self.published: list[Block] = []
        self.mark = itertools.count(1)
        self.read_last: list[Block] = []

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            self.reader.close()
            self.writer.close()
            remove_chain(self.name)
            assert not [n for n in names.existing_names() if n.startswith(self.base)]

    @rule(size=st.integers(0, 100) | st.integers(500, 2000))
    def allocate(self, size: int) -> None:
        block = self.writer.allocate(size)
        assert len(block.content) >= size
        assert not any(block.content)
        content = (b"%d " % next(self.mark)).ljust(len(block.content), b"x")
        block.content[:] = content
        self.allocated.append(block)
        self.content[block] = content

    @precondition(lambda self: len(self.allocated) > len(self.published))
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        unpublished = [block for block in self.allocated if block not in self.published]
        block = data.draw(st.sampled_from(unpublished))
        self.writer.publish(block)
        self.published.append(block)

    @precondition(lambda self: self.allocated)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.allocated))
        was_read = any(block.content == seen.content for seen in self.read_last)
        self.writer.free(block)
        assert not (was_read and self.reader.is_current())
        self.allocated.remove(block)
        del self.content[block]
        if block in self.published:
            self.published.remove(block)

    @rule()
    def change_reader(self) -> None:
        self.reader.close()
        self.reader = ChainReader(self.name)
        self.read_last = []

    @rule()
    def read(self) -> None:
        blocks = self.reader.blocks()
        found = sorted(bytes(block.content) for block in blocks)
        assert found == sorted(self.content[block] for block in self.published)
        assert self.reader.is_current()
        self.read_last = blocks
        assert all(a is b for a, b in zip(blocks, self.reader.blocks(), strict=True))

    @invariant()
    def nobody_writes_into_anothers_block(self) -> None:
        for block, content in self.content.items():
            assert block.content == content


TestChain = ChainMachine.TestCase
TestChain.settings = settings(max_examples=30, stateful_step_count=30)


def test_what_is_freed_is_used_again(name: str) -> None:
    writer = ChainWriter(name, segment_size=SEGMENT_SIZE)
    for size in itertools.islice(itertools.cycle((9, 50, 30, 64)), 400):
        block = writer.allocate(size)
        writer.publish(block)
        writer.free(block)
    assert len(writer._segments) == 1
    writer.close()


def test_a_reader_notices_that_a_block_is_used_for_something_else(name: str) -> None:
    writer = ChainWriter(name)
    reader = ChainReader(name)
    assert reader.blocks() == []
    first = writer.allocate(8)
    writer.publish(first)
    (seen,) = reader.blocks()
    assert reader.is_current()
    writer.free(first)
    assert not reader.is_current()
    second = writer.allocate(8)
    second.content[0] = 1
    writer.publish(second)
    (seen_later,) = reader.blocks()
    assert seen_later is not seen
    assert seen_later.content[0] == 1
    writer.close()
    reader.close()


def test_cells_of_a_block_are_numbers(name: str) -> None:
    writer = ChainWriter(name)
    block = writer.allocate(16)
    block.content.cast("d")[0] = 0.5
    block.content.cast("q")[1] = -1
    writer.publish(block)
    reader = ChainReader(name)
    (seen,) = reader.blocks()
    assert seen.content.cast("d")[0] == 0.5
    assert seen.content.cast("q")[1] == -1
    writer.close()
    reader.close()


def test_what_a_dead_process_published_is_there_until_the_arena_goes() -> None:
    script = """
        import os, signal, sys
        from pounce.shm.chain import ChainWriter
        if not os.fork():
            writer = ChainWriter(sys.argv[1], segment_size=512)
            for number in range(100):
                block = writer.allocate(8)
                block.content.cast("q")[0] = number
                writer.publish(block)
            os.kill(os.getpid(), signal.SIGKILL)
        os.wait()
    """
    with Arena.create(Layout((Counter("a"),))) as arena:
        assert arena.name is not None
        name = names.further_name(arena.name, 12)
        run_python(script, name)
        reader = ChainReader(name)
        assert [block.content.cast("q")[0] for block in reader.blocks()] == list(range(100))
        further = [each for each in names.existing_names() if each.startswith(name)]
        assert len(further) > 3
    assert not set(further) & set(names.existing_names())
    reader.close()
