"""QEMU's log as events: both line formats, any way of cutting it, records that did not run, REPs, and text that is not a log."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.errors import ProtocolError
from pvhdbg.tracing.cpu_text import decode
from pvhdbg.tracing.event import Batch, Event, Fault
from pvhdbg.tracing.qemu_log import LogReader

OLD = b"Trace 0: 0x7fc638000100 [0000000000000000/%016x/%08x/ff000201] pvh_start\n"  # QEMU 7.2
NEW = b"Trace 0: 0x7f2a58000100 [00000000/%016x/%08x/ff020200] pvh_start\n"  # QEMU 10.0
FLAT, COMPAT, LONG = 0xB0, 0x40B0, 0xC0B0
STATE = b"""EAX=%08x EBX=000021e0 ECX=00100000 EDX=00000518
ESI=000011c0 EDI=00006ef4 EBP=00000000 ESP=00006edc
EIP=%08x EFL=00000006 [-----P-] CPL=0 II=0 A20=1 SMM=0 HLT=0
ES =0010 00000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
CS =0008 00000000 ffffffff 00cf9a00 DPL=0 CS32 [-R-]
SS =0010 00000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
DS =0010 00000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
FS =0010 00000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
GS =0010 00000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
LDT=0000 00000000 0000ffff 00008200 DPL=0 LDT
TR =0000 00000000 0000ffff 00008b00 DPL=0 TSS32-busy
GDT=     000ca118 00000027
IDT=     00000000 000003ff
CR0=%08x CR2=00000000 CR3=00000000 CR4=00000000
DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000 
DR6=00000000ffff0ff0 DR7=0000000000000400
CCS=00000004 CCD=00006ed4 CCO=EFLAGS
EFER=%016x
"""  # noqa: W291 - QEMU's own blank
FAULT = b"""check_exception old: 0xffffffff new 0xe
     0: v=0e e=0002 i=0 cpl=0 IP=0008:00000000001000fe pc=00000000001000fe SP=0010:00000000d0000000 CR2=00000000cffffffc
"""


def asm(pc: int, code: bytes) -> bytes:
    return b"----------------\nIN: pvh_start\n0x%08x:  %-24s something\n\n" % (pc, code.hex(" ").encode())


def state(eax: int = 0, eip: int = 0, cr0: int = 0x11, efer: int = 0) -> bytes:
    return STATE % (eax, eip, cr0, efer)


def read(
    text: bytes, *cuts: int, states: bool = False, final: bytes | None = None, cpu: int = 0
) -> tuple[list[Event], list[Fault]]:
    """All events and faults of a log that arrives in pieces."""
    reader = LogReader(states=states, cpu=cpu)
    batches: list[Batch] = [reader.feed(text[a:b]) for a, b in pairwise([0, *sorted(cuts), len(text)])]
    batches.append(reader.finish(final))
    events = [event for batch in batches for event in batch]
    assert [event.seq for event in events] == list(range(len(events)))
    return events, [fault for batch in batches for fault in batch.faults]


@pytest.mark.parametrize("line", [OLD, NEW])
def test_places_and_modes_of_both_formats(line: bytes) -> None:
    log = asm(0x1000850, b"\xfc") + line % (0x1000850, FLAT) + line % (0x1000851, COMPAT) + line % (0xFFFFFFFF81000000, LONG)
    events, _ = read(log)
    assert [(event.pc, event.mode) for event in events] == [
        (0x1000850, Mode.PROTECTED),
        (0x1000851, Mode.COMPATIBILITY),
        (0xFFFFFFFF81000000, Mode.LONG),
    ]
    assert [event.code for event in events] == [b"\xfc", b"", b""]
    assert events[0].changes is None


def test_long_instructions_take_two_lines_and_two_of_eight_bytes_do_not() -> None:
    log = b"IN: \n0x00100049:  c7 05 00 20 10 00 03 30  movl     $0x103003, 0x102000\n0x00100051:  10 00\n\n" + OLD % (
        0x100049,
        FLAT,
    )
    log += b"IN: \n0x00100060:  48 b8 00 00 00 00 00 00  movabsq  $0, %rax\n0x00100068:  c7 05 00 20 10 00 03 30  movl $1, 2\n\n"
    events, _ = read(log + OLD % (0x100060, LONG) + OLD % (0x100068, LONG))
    assert [event.code.hex() for event in events] == ["c7050020100003301000", "48b8000000000000", "c705002010000330"]


def test_records_that_did_not_run_are_dropped() -> None:
    stopped = b"Stopped execution of TB chain before 0x7f5b1c036ac0 [0000000000000002] \n"
    log = OLD % (1, FLAT) + OLD % (2, FLAT) + stopped + OLD % (2, FLAT) + OLD % (3, FLAT)
    assert [event.pc for event in read(log)[0]] == [1, 2, 3]
    full = OLD % (1, FLAT) + state() + OLD % (2, FLAT) + state() + stopped + OLD % (2, FLAT) + state() + OLD % (3, FLAT) + state()
    assert [event.pc for event in read(full, states=True)[0]] == [1, 2, 3]


def test_the_iterations_of_a_rep_are_one_event_and_those_of_a_jump_to_itself_are_not() -> None:
    stopped = b"Stopped execution of TB chain before 0x7f5b1c036ac0 [0000000000000005] \n"
    rep = asm(5, b"\xf3\xa5") + 3 * (OLD % (5, FLAT)) + stopped + 2 * (OLD % (5, FLAT)) + OLD % (7, FLAT)
    jump = asm(9, b"\xeb\xfe") + 3 * (OLD % (9, FLAT))
    assert [event.pc for event in read(rep + jump)[0]] == [5, 7, 9, 9, 9]
    states = asm(5, b"\xf3\xa5") + b"".join(OLD % (5, FLAT) + state(eax) for eax in range(4)) + OLD % (7, FLAT) + state(9)
    events, _ = read(states, states=True)
    assert [(event.pc, event.changes) for event in events] == [(5, {"rax": 9}), (7, None)]


def test_what_changed_is_what_the_next_record_shows() -> None:
    log = OLD % (1, FLAT) + state(eax=5) + OLD % (2, FLAT) + state(eax=6, cr0=0x11) + OLD % (3, FLAT) + state(eax=6, cr0=0x80000011)
    reader = LogReader(states=True)
    batch = reader.feed(log)
    assert [event.changes for event in batch] == [{"rax": 6}]
    last = reader.finish(state(eax=6, cr0=0x80000011, efer=0x500))
    assert [event.changes for event in last] == [{"cr0": 0x80000011}, {"efer": 0x500}]
    assert list(last.system) == [0, 1]
    assert [event.mode for event in last] == [Mode.PROTECTED, Mode.PAGED]


def test_faults_come_with_their_registers_and_their_place() -> None:
    log = OLD % (1, FLAT) + OLD % (2, FLAT) + FAULT + state(eax=7) + b"Triple fault\n"
    events, faults = read(log)
    assert len(events) == 2
    assert [(fault.seq, fault.kind, fault.vector, fault.error) for fault in faults] == [
        (2, "exception", 14, 2),
        (2, "triple fault", None, None),
    ]
    assert (faults[0].pc, faults[0].cr2, faults[0].state["rax"]) == (0x1000FE, 0xCFFFFFFC, 7)
    reader = LogReader(states=False)
    assert reader.faults_in(FAULT + state()[:300]) == []
    (fault,) = reader.faults_in(state()[300:])
    assert fault.state == decode(state())


def test_another_cpus_records_are_not_ours() -> None:
    other = OLD.replace(b"Trace 0", b"Trace 1")
    assert [event.pc for event in read(OLD % (1, FLAT) + other % (2, FLAT) + OLD % (3, FLAT))[0]] == [1, 3]
    assert [event.pc for event in read(OLD % (1, FLAT) + other % (2, FLAT) + OLD % (3, FLAT), cpu=1)[0]] == [2]


@pytest.mark.parametrize("states", [False, True])
def test_a_foreign_format_is_refused_with_the_line(states: bool) -> None:
    log = (
        (OLD % (1, FLAT) + state())
        + b"Trace 0: 0x7f [pc=0000000000100000 flags=b0] strange\n"
        + state()
        + OLD % (2, FLAT)
        + state()
    )
    with pytest.raises(ProtocolError, match=r"flags=b0\] strange") as caught:
        read(log if states else log.replace(state(), b""), states=states)
    assert "--engine step" in caught.value.todo
    with pytest.raises(ProtocolError, match="nothing of a log"):
        LogReader(states=states).faults_in(b"nothing of a log\n" * 300)


SAMPLE = (
    asm(1, b"\xf3\xa5") + OLD % (1, FLAT) + state(1) + OLD % (1, FLAT) + state(2) + FAULT + state(3) + NEW % (2, LONG) + state(3)
)


@given(st.lists(st.integers(0, len(SAMPLE)), max_size=6))
def test_however_the_log_is_cut_the_events_are_the_same(cuts: list[int]) -> None:
    events, faults = read(SAMPLE, *cuts, states=True)
    assert [(event.pc, event.mode, event.changes) for event in events] == [(1, Mode.PROTECTED, {"rax": 3}), (2, Mode.LONG, None)]
    assert [fault.seq for fault in faults] == [1]


@given(st.lists(st.integers(0, 500), max_size=6))
def test_however_places_are_cut_the_events_are_the_same(cuts: list[int]) -> None:
    log = asm(1, b"\xf3\xa5") + 3 * (OLD % (1, FLAT)) + NEW % (2, LONG) + b"Stopped execution of TB chain\n" + 2 * (NEW % (2, LONG))
    assert [event.pc for event in read(log, *(min(cut, len(log)) for cut in cuts))[0]] == [1, 2, 2]


@given(st.lists(st.sampled_from([*SAMPLE.splitlines(keepends=True), b"\xff\0\n", b"Trace ", b"EFER=", b"\n", b"0x1:  zz\n"]), max_size=30),
       st.booleans())  # fmt: skip
def test_nothing_that_a_stranger_writes_breaks_it(pieces: list[bytes], states: bool) -> None:
    reader = LogReader(states=states)
    try:
        for piece in pieces:
            for event in reader.feed(piece):
                assert event.pc >= 0
        for event in reader.finish(b"".join(pieces)):
            assert event.changes is None or all(isinstance(value, int) for value in event.changes.values())
    except ProtocolError:
        pass  # it says which line it cannot read; any other exception fails


def test_of_several_cpus_one_is_followed_and_named() -> None:
    other = NEW.replace(b"Trace 0", b"Trace 1")
    stopped = b"Stopped execution of TB chain before 0x7f5b1c036ac0 [%016x] \n"
    log = (
        NEW % (1, LONG)
        + other % (0x100, LONG)
        + NEW % (2, LONG)
        + stopped % 0x100
        + other % (0x101, LONG)
        + NEW % (3, LONG)
        + stopped % 3
    )
    assert [(event.pc, event.cpu) for event in read(log)[0]] == [(1, 0), (2, 0)]  # the first stop was the other's
    assert [(event.pc, event.cpu) for event in read(log, cpu=1)[0]] == [(0x101, 1)]


def test_states_of_several_cpus_are_told_apart() -> None:
    other = NEW.replace(b"Trace 0", b"Trace 1")
    log = b"".join(line % (at, FLAT) + state(at) for at, line in enumerate((NEW, other, NEW, other, NEW), 1))
    events, _ = read(log, states=True, final=state(9), cpu=1)
    assert [(event.pc, event.cpu, dict(event.changes or {})) for event in events] == [(2, 1, {"rax": 4}), (4, 1, {"rax": 9})]


@given(st.lists(st.booleans(), min_size=2, max_size=24), st.data())
def test_registers_of_several_cpus_find_their_records(turns: list[bool], data: st.DataObject) -> None:
    """Each record is two writes, and the other CPU may write between them. Cut anywhere, nothing is lost or taken for another's."""
    steps, half, written = [0, 0], [b"", b""], []
    for turn in [*turns, False, True]:
        number = int(turn)
        if half[number]:
            written.append(half[number])
            half[number] = b""
        else:
            at = 0x1000 * (number + 1) + steps[number]
            head = (NEW % (at, FLAT)).replace(b"Trace 0", b"Trace %d" % number)
            written.append(head)
            half[number] = state(steps[number], eip=at)
            steps[number] += 1
    written += [one for one in half if one]  # what was begun is written to its end
    log = b"".join(written)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), max_size=4)))
    for number in (0, 1):
        reader = LogReader(states=True, cpu=number, several=True)
        batches = [reader.feed(log[a:b]) for a, b in pairwise([0, *cuts, len(log)])] + [reader.finish(state(steps[number], eip=0))]
        events = [event for batch in batches for event in batch]
        assert [event.pc for event in events] == [0x1000 * (number + 1) + step for step in range(steps[number])]
        assert [(event.changes or {}).get("rax") for event in events] == list(range(1, steps[number] + 1))


# --- code that was shown at another address -------------------------------------------------------------------------


def codes(log: bytes, file: dict[int, bytes] | None = None) -> list[bytes]:
    reader = LogReader(states=False, peek=lambda pc: (file or {}).get(pc, b""))
    return [event.code for batch in (reader.feed(log), reader.finish()) for event in batch]


def ran(*pcs: int) -> bytes:
    return b"".join(NEW % (pc, FLAT) for pc in pcs)


def test_a_block_that_qemu_showed_at_another_address_has_its_code() -> None:
    """Firmware in flash and in its shadow below 1 MiB is one physical page; other pages have code at some of the same offsets."""
    shown = asm(0xFFFF1005, b"\x55") + asm(0xFFFF1006, b"\x89\xe5") + asm(0xF3006, b"\x75\xee")
    assert codes(shown + ran(0xF1005, 0xF1006)) == [b"\x55", b"\x89\xe5"]
    assert codes(shown + ran(0xF1006)) == [b""]  # two pages have code there, and nothing says which it is
    assert codes(shown + ran(0xF1007)) == [b""]
    same = shown + asm(0xF4006, b"\x75\xee") + asm(0xF4005, b"\x55")
    assert codes(same + ran(0xF1005, 0xF1006)) == [b"\x55", b""]  # the first is the same, whichever it is
    assert codes(same + asm(0xFFFF1007, b"\x90") + ran(0xF1007, 0xF1006, 0xF1005)) == [b"\x90", b"\x89\xe5", b"\x55"]


def test_the_kernels_file_decides_between_pages() -> None:
    shown = asm(0xFFFFFFFF81000670, b"\xc3") + asm(0xFFFFFFFF81001670, b"\x90")
    assert codes(shown + ran(0x1000670), {0x1000670: b"\xc3\xcc\xcc"}) == [b"\xc3"]
    assert codes(shown + ran(0x1000670), {0x1000670: b"\xcc\xcc"}) == [b""]
