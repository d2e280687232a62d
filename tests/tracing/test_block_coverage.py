"""Functions by their first call: the log of translated blocks, cut anywhere, and the engine against the guest's own source."""

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pvhdbg import guests
from pvhdbg.kernel.image import open_kernel
from pvhdbg.machine.names import Names
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.tracing.block_coverage import Block, BlockReader, Functions, ReachedFunction
from pvhdbg.tracing.engines.block_coverage import BlockCoverageEngine
from pvhdbg.tracing.engines.engine import Bounds
from pvhdbg.tracing.event import EndReason

LOG = b"""----------------
IN: pvh_start
0x00100000:  bc 10 90 10 00           movl     $0x109010, %esp
0x00100005:  c7 05 00 20 10 00 03 30  movl     $0x103003, 0x102000
0x0010000d:  10 00

----------------
IN: 
0xffffffff81000000:  90                       nop

CPU Reset (CPU 0)
----------------
IN: a
0x00100010:  eb fe                    jmp      0x100010

"""  # noqa: W291 - QEMU's own blank
BLOCKS = [Block(0x100000, 0x10000D), Block(0xFFFFFFFF81000000, 0xFFFFFFFF81000000), Block(0x100010, 0x100010)]


@given(st.lists(st.integers(0, len(LOG)), max_size=6))
def test_however_the_log_is_cut_the_blocks_are_the_same(cuts: list[int]) -> None:
    reader = BlockReader()
    found = [block for a, b in pairwise([0, *sorted(cuts), len(LOG)]) for block in reader.feed(LOG[a:b])]
    assert [*found, *reader.finish()] == BLOCKS


@given(st.binary(max_size=200), st.sampled_from([b"", b"IN: \n0x:\n\n", b"\nIN: x\n0x0:\n0xzz: \n\n"]))
def test_text_that_is_no_log_gives_no_blocks(noise: bytes, more: bytes) -> None:
    reader = BlockReader()
    for block in [*reader.feed(noise + more), *reader.finish()]:
        assert block.pc >= 0


def test_a_function_counts_once_also_where_a_block_runs_into_it() -> None:
    names = {1: "main", 5: "next+0x1", 9: "main+0x8", 12: None}
    functions = Functions(names.get)
    assert functions.feed([Block(1, 5), Block(9, 12)]) == [ReachedFunction(0, "main", 1, 0), ReachedFunction(1, "next", 5, 0)]
    assert functions.feed([Block(5, 5)]) == []
    assert functions.blocks == 3


def test_long_mode_is_run_in_the_order_of_its_source(at_entry: Callable[..., RemoteTarget]) -> None:
    target = at_entry("long_mode")
    with open_kernel(str(guests.path("long_mode"))) as image:
        names = Names(image)
        engine = BlockCoverageEngine(target)
        functions = Functions(names)
        found = [one.name for blocks in engine.blocks(Bounds(seconds=20)) for one in functions.feed(blocks)]
        assert found[:9] == [
            "pvh_start",
            "map_4g",
            "enable_pae",
            "load_cr3",
            "enable_lme",
            "enable_paging",
            "load_gdt",
            "far_jump",
            "in_long_mode",
        ]
        assert engine.end.why is EndReason.HALTED
        stopped = at_entry("long_mode")
        again = BlockCoverageEngine(stopped)
        until = names.addresses("enable_lme")
        assert [one.name for blocks in again.blocks(Bounds(addresses=until)) for one in Functions(names).feed(blocks)][
            -1
        ] == "load_cr3"
        assert (again.end.why, again.end.pc) == ("address", until[0])
        assert not stopped.breakpoints
