"""QEMU's log as events: `exec,nochain` (addresses) or `exec,cpu,nochain` (states), mixed with `in_asm`, `int` and `cpu_reset`.

A record is written before its instruction runs (accel/tcg/cpu-exec.c, log_cpu_exec)::

    Trace 0: 0x7fc638000100 [0000000000000000/0000000000100000/000000b0/ff000201] pvh_start      QEMU 7.2
    Trace 0: 0x7f2a58000100 [00000000/0000000000100000/000000b0/ff020200] pvh_start              QEMU 10

The second number in brackets is pc, the third the CPU's hidden flags. With `cpu` the registers follow. Three traps of QEMU stand
between records and events: a record that is followed by "Stopped execution of TB chain" did not run, and is dropped; QEMU 7 logs
each iteration of a REP, which together are one event; and the changes of an instruction are in the next record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, repeat
from operator import eq, ne

from pvhdbg.decode.cpu_mode import Mode, mode_of, mode_of_hflags
from pvhdbg.tracing.cpu_text import Dump, TextDelta
from pvhdbg.tracing.event import Batch, Delta, Fault, FaultKind
from pvhdbg.tracing.exec_log_columns import RECORD, Columns, by_column, columns, foreign
from pvhdbg.tracing.interleaved_records import whole_records
from pvhdbg.tracing.opcodes import Effect, effect_of

_OTHER_LINE = re.compile(rb"\n(?!Trace )")
_NEXT = b"\nTrace "
_STOPPED = b"Stopped execution of TB chain"
_STOPPED_AT = re.compile(rb"\[([0-9a-f]{8,16})\]")
_ASM = re.compile(rb"^0x([0-9a-f]+):  ((?:[0-9a-f]{2} )*[0-9a-f]{2})(?: +(\S)|$)")
_EXCEPTION = re.compile(
    rb"^ *\d+: v=([0-9a-f]{2}) e=([0-9a-f]{4}) i=([01]) cpl=\d IP=[0-9a-f]{4}:([0-9a-f]{8,16}) pc=[0-9a-f]{8,16} SP=\S+(?: CR2=([0-9a-f]+))?"
)
_HARDWARE = re.compile(rb"^Servicing hardware INT=0x([0-9a-f]{2})")
_RESET = re.compile(rb"^CPU Reset \(CPU (\d+)\)")
_REGISTERS = re.compile(
    rb"^(?:[RE][A-Z0-9]{1,2} ?=|(?:ES|CS|SS|DS|FS|GS|LDT|TR) ?=|[GI]DT=|CR0=|DR[0-7]=|CC[SDO]=|FCW=|FPR\d=|[XYZ]MM\d\d=|Opmask)"
)
_CR_LINE = re.compile(rb"CR0=([0-9a-f]+) CR2=[0-9a-f]+ CR3=[0-9a-f]+ CR4=([0-9a-f]+)")
_CONTROL_LOGS = (b"CR0 update", b"CR3 update", b"CR4 update")
_UNFINISHED_BOUND = 8 << 20  # bytes without a record after which the log is not believed
_PAGE = 12  # bits of an offset in a page
_OFFSET = (1 << _PAGE) - 1
_STRANGE_BOUND = 256  # lines that are neither records nor known, before any record

Peek = Callable[[int], bytes]
_Record = tuple[int, Mode, bytes, tuple[bytes, bytes]]  # pc, mode, the dump, and its part that only system instructions change


class LogReader:
    """Feed it the log in any pieces; it returns the events that are complete. It follows the records of one CPU.

    `states` says that the log was made with the item `cpu`; `base` is the sequence number of the first event. `peek` gives the kernel
    file's bytes at a linear address, for code that the log did not show there: QEMU logs each block once, by physical address, so code
    that runs at a second virtual address is not logged again. `several` says that more than one CPU writes to the log.
    """

    def __init__(self, *, states: bool, cpu: int = 0, base: int = 0, peek: Peek = lambda _: b"", several: bool = False) -> None:
        self.codes: dict[int, bytes] = {}  # by pc, as `in_asm` showed them
        self.seq = base  # of the next event
        self.iterations = 0  # of the REP at the current end of the log
        self.strange: list[bytes] = []  # lines that could not be read
        self._states = states
        self._number = cpu
        self._cpu = b"%d" % cpu
        self._several = several
        self._peek = peek
        self._pages: dict[int, set[int]] = {}  # by an offset in a page: the numbers of the pages that code was shown of there
        self._elsewhere: dict[int, set[int]] = {}  # by the number of a page: those of the pages where its code may have been shown
        self._indexed = 0  # places of `codes` that are in `_pages`
        self._rest = b""
        self._believed = False  # until the first record
        self._modes: dict[int, Mode] = {}
        self._mode_cache: dict[tuple[bytes, bytes], Mode] = {}
        self._held: _Record | None = None  # the last record, whose effect is not known yet
        self._length = 0  # of a dump with its last newline
        self._last_pc = -1  # of the last event, to detect iterations of a REP
        self._folded = False  # the last record was an iteration, not an event
        self._begun = base
        self._interrupt: int | None = None
        self._asm_at: int | None = None
        self._fault: tuple[Fault, list[bytes]] | None = None
        self._faults: list[Fault] = []

    def feed(self, data: bytes) -> Batch:
        """The events that `data` completes. Raises ProtocolError for a log in another format."""
        buffer, torn = self._rest + data, b""
        if self._states and self._several:
            buffer, torn = whole_records(buffer)
        end = buffer.rfind(_NEXT) + 1  # the last record stays: the next line may say that it did not run
        self._rest = buffer[end:] + torn
        if len(self._rest) > _UNFINISHED_BOUND:
            raise foreign(self._rest[:200])
        return self._take(buffer[:end]) if end else Batch(self.seq, [], [], [])

    def finish(self, state: bytes | None = None) -> Batch:
        """The remaining events at the end of the log; `state` is a dump of the CPU at that moment, None without one."""
        rest, self._rest = self._rest, b""
        batch = self._take(rest[: rest.rfind(b"\n") + 1])  # an incomplete line is not read
        if self._fault is not None:
            self._close_fault()
        faults = [*batch.faults, *self._taken_faults()]
        if self._held is None:
            return replace(batch, faults=faults)
        pc, mode, before, system = self._held
        self._held = None
        self.seq += 1
        return replace(
            batch,
            pcs=[*batch.pcs, pc],
            modes=[*batch.modes, mode],
            codes=[*batch.codes, *self._codes_of((pc,))],
            cpus=None if batch.cpus is None else [*batch.cpus, self._number],
            deltas=[*(batch.deltas or ()), None if state is None else TextDelta(before, state)],
            system=[*batch.system, *([len(batch)] if state is not None and system != _system(state) else ())],
            faults=faults,
        )

    def faults_in(self, data: bytes, begun: int = 0) -> list[Fault]:
        """The faults in a log without records (`int,cpu_reset,mmu`), as far as they are complete, after `begun` events."""
        self._begun = begun
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._other_line(line)
        return self._taken_faults()

    # --- records --------------------------------------------------------------------------------------------------

    def _take(self, text: bytes) -> Batch:
        return self._take_states(text) if self._states else self._take_addresses(text)

    def _take_addresses(self, text: bytes) -> Batch:
        pcs: list[int] = []
        modes: list[Mode] = []
        alike = by_column(text, self._cpu)
        if alike is not None:  # most pieces
            self._add(alike, pcs, modes)
            return self._batch(pcs, modes, None)
        at = 0
        for start, end in _blocks(text):
            self._add(columns(text[at:start], self._cpu), pcs, modes)
            stopped = self._others(text[start:end], self.seq + len(pcs), pcs[-1] if pcs else None)
            if stopped and pcs and not self._folded:
                del pcs[-1], modes[-1]
                self._last_pc = -1
            at = end
        self._add(columns(text[at:], self._cpu), pcs, modes)
        return self._batch(pcs, modes, None)

    def _add(self, found: Columns, pcs: list[int], modes: list[Mode]) -> None:
        """Add the events of consecutive records."""
        if not found.pcs:
            return
        self._believed = True
        new: Sequence[int] = found.pcs
        new_modes = self._modes_of(found.flags)
        drop = self._iterations(new, new_modes)
        self._last_pc, self._folded = new[-1], bool(drop) and drop[-1] == len(new) - 1
        self.iterations = (self.iterations if len(drop) == len(new) else 0) + len(drop) if self._folded else 0
        if drop:
            gone = set(drop)
            new = [pc for index, pc in enumerate(new) if index not in gone]
            new_modes = [mode for index, mode in enumerate(new_modes) if index not in gone]
        pcs += new
        modes += new_modes

    def _modes_of(self, flags: Sequence[int]) -> list[Mode]:
        known, count = self._modes, len(flags)
        if flags.count(flags[0]) == count:
            return [known.get(flags[0]) or known.setdefault(flags[0], mode_of_hflags(flags[0]))] * count
        for one in set(flags) - known.keys():
            known[one] = mode_of_hflags(one)
        return list(map(known.__getitem__, flags))

    def _iterations(self, pcs: Sequence[int], modes: list[Mode]) -> list[int]:
        """The indexes of second and later iterations of a REP."""
        if pcs[0] != self._last_pc and True not in map(eq, pcs, islice(pcs, 1, None)):
            return []
        again = [index for index, same in enumerate(map(eq, pcs, [self._last_pc, *pcs])) if same]
        if not again:
            return again
        reps = {pc for pc, mode in {pcs[index]: modes[index] for index in again}.items() if self._is_rep(pc, mode)}
        return [index for index in again if pcs[index] in reps]

    def _is_rep(self, pc: int, mode: Mode) -> bool:
        return effect_of(self.code(pc), mode.bits) is Effect.REP

    def _take_states(self, text: bytes) -> Batch:
        records = [] if self._held is None else [self._held]
        at = 0
        if not text.startswith(_NEXT[1:]):
            at = text.find(_NEXT) + 1 or len(text)
            self._others(text[:at], self.seq + len(records))
        while at < len(text):
            record, end, following = self._state(text, at)
            if record is not None:
                self._folded = bool(records) and records[-1][0] == record[0] and self._is_rep(record[0], record[1])
                self.iterations = self.iterations + 1 if self._folded else 0
                if not self._folded:
                    records.append(record)
            last = records[-1][0] if records else None
            if (
                following > end
                and self._others(text[end:following], self.seq + len(records), last)
                and records
                and not self._folded
            ):
                records.pop()
            at = following
        if not records:
            self._held = None
            return self._batch([], [], [])
        systems = [record[3] for record in records]
        system = [index for index, changed in enumerate(map(ne, systems, systems[1:])) if changed]
        states = [record[2] for record in records]
        self._held = records.pop()
        deltas = list(map(TextDelta, states, states[1:]))
        return self._batch([record[0] for record in records], [record[1] for record in records], deltas, system)

    def _state(self, text: bytes, at: int) -> tuple[_Record | None, int, int]:
        """The record at `at`, if it is one of our CPU's; where its registers end, and where the next record begins."""
        match = RECORD.match(text, at)
        if match is None:
            raise foreign(text[at : text.find(b"\n", at)])
        self._believed = True
        cpu, pc, flags = match.groups()
        start = match.end()
        # Most dumps are as long as the one before: then no search is needed.
        end = start + self._length
        if text[end - 22 : end - 17] == b"EFER=" and (text.startswith(_NEXT[1:], end) or end == len(text)):
            following = end
        else:
            efer = text.find(b"\nEFER=", start)
            following = text.find(_NEXT, start) + 1 or len(text)
            if efer < 0 or efer > following:
                return None, following, following  # incomplete at the end of the log: a record without its registers
            end = efer + len("\nEFER=0000000000000000\n")
            self._length = end - start
        if cpu != self._cpu:
            return None, end, following
        state = text[start : end - 1]
        system = _system(state)
        return (int(pc, 16), self._mode(flags, system[0]), state, system), end, following

    def _mode(self, flags: bytes, state: bytes) -> Mode:
        at = state.rfind(b"CR0=")
        key = (flags, state[at:])
        found = self._mode_cache.get(key)
        if found is None:
            found = mode_of_hflags(int(flags, 16))
            line = _CR_LINE.match(key[1])
            if line is not None and found is Mode.PROTECTED:
                found = mode_of(int(line[1], 16), int(line[2], 16), 0, None)
            if len(self._mode_cache) > 4096:  # each value of cr2 makes another line
                self._mode_cache.clear()
            self._mode_cache[key] = found
        return found

    def code(self, pc: int) -> bytes:
        """The instruction at a linear address, or the file's bytes there; empty where it was not seen."""
        return self._codes_of((pc,))[0] or self._peek(pc)

    def _codes_of(self, pcs: Sequence[int]) -> list[bytes]:
        codes = list(map(self.codes.get, pcs, repeat(b"")))
        if b"" in codes:
            self._look_elsewhere({pc for pc, code in zip(pcs, codes, strict=True) if not code})
            codes = list(map(self.codes.get, pcs, repeat(b"")))
        return codes

    def _look_elsewhere(self, missing: set[int]) -> None:
        """Find the code of places that the log did not show: QEMU had shown their block, which is physical, at another address.

        Their code is that of the page on which QEMU showed code at each of these places, in accordance with the file where that
        has them. Where there are several such pages with different code, it stays unknown.
        """
        for pc in islice(self.codes, self._indexed, None):
            self._pages.setdefault(pc & _OFFSET, set()).add(pc >> _PAGE)
        self._indexed = len(self.codes)
        for page in {pc >> _PAGE for pc in missing}:
            places = sorted(pc for pc in missing if pc >> _PAGE == page)
            pages = set.intersection(*(self._pages.get(pc & _OFFSET, set()) for pc in places))
            pages = pages & self._elsewhere.get(page, pages) or pages  # what it was before, unless it is mapped elsewhere now
            found = {other: tuple(self.codes[other << _PAGE | pc & _OFFSET] for pc in places) for other in pages}
            files = [self._peek(pc) for pc in places]
            found = {
                other: codes
                for other, codes in found.items()
                if all(not file or file.startswith(code) for file, code in zip(files, codes, strict=True))
            }
            self._elsewhere[page] = set(found)
            if len(set(found.values())) == 1:
                self.codes.update(zip(places, next(iter(found.values())), strict=True))

    def _batch(
        self, pcs: Sequence[int], modes: Sequence[Mode], deltas: Sequence[Delta] | None, system: Sequence[int] = ()
    ) -> Batch:
        seq = self.seq
        self.seq += len(pcs)
        codes = self._codes_of(pcs)
        cpus = None if self._cpu == b"0" else [self._number] * len(pcs)
        return Batch(seq, pcs, modes, codes, deltas, cpus, system, self._taken_faults())

    # --- lines between records ----------------------------------------------------------------------------------

    def _others(self, text: bytes, begun: int, last: int | None = None) -> bool:
        """Read lines that are not records, after `begun` events. Returns whether they say that the last record did not run.

        QEMU does not name the CPU in "Stopped execution": with several CPUs it is about ours only if its pc is `last`.
        """
        stopped = False
        self._begun = begun
        for line in text.split(b"\n"):
            if line.startswith(_STOPPED):
                at = _STOPPED_AT.search(line)
                stopped |= at is None or last is None or int(at[1], 16) == last
            elif line:
                self._other_line(line)
        return stopped

    def _other_line(self, line: bytes) -> None:
        if self._fault is not None and (line.startswith(b"EFER=") or _REGISTERS.match(line)):
            self._fault[1].append(line)
            if line.startswith(b"EFER="):
                self._close_fault()
            return
        asm = _ASM.match(line)
        if asm:
            self._assembled(int(asm[1], 16), bytes.fromhex(asm[2].decode()), asm[3] is None)
            return
        if line.startswith((b"IN:", b"----")):
            return
        exception = _EXCEPTION.match(line)
        if exception:
            vector, error, software, pc, cr2 = exception.groups()
            kind = FaultKind.SOFTWARE_INTERRUPT if software == b"1" else FaultKind.EXCEPTION
            if self._interrupt == int(vector, 16):
                kind = FaultKind.INTERRUPT
            self._interrupt = None
            self._open_fault(kind, int(vector, 16), int(error, 16), int(pc, 16), None if cr2 is None else int(cr2, 16))
            return
        hardware = _HARDWARE.match(line)
        if hardware:
            self._interrupt = int(hardware[1], 16)  # the line with the pc follows
        elif line.startswith(b"Triple fault"):
            self._open_fault(FaultKind.TRIPLE_FAULT)
        elif reset := _RESET.match(line):
            if reset[1] == b"0":  # QEMU: the reset of another CPU is an INIT, by which a kernel starts it
                self._open_fault(FaultKind.RESET)
        elif (
            not line.startswith((*_CONTROL_LOGS, b"check_exception", b"SMM:"))
            and not _REGISTERS.match(line)
            and line[:5] != b"EFER="
        ):
            self._strange_line(line)

    def _assembled(self, address: int, code: bytes, more: bool) -> None:
        """One line of `in_asm`: an instruction, or (without a disassembly) the bytes that its line had no room for."""
        if more and self._asm_at is not None:
            self.codes[self._asm_at] += code
        else:
            self.codes[address] = code
            self._asm_at = address

    def _strange_line(self, line: bytes) -> None:
        if len(self.strange) < _STRANGE_BOUND:
            self.strange.append(line[:200])
        elif not self._believed:
            raise foreign(self.strange[0])

    def _open_fault(
        self, kind: FaultKind, vector: int | None = None, error: int | None = None, pc: int | None = None, cr2: int | None = None
    ) -> None:
        if self._fault is not None:
            self._close_fault()
        self._fault = Fault(self._begun, kind, vector, error, pc, cr2), []
        if kind is FaultKind.TRIPLE_FAULT:
            self._close_fault()  # no registers follow

    def _close_fault(self) -> None:
        assert self._fault is not None
        fault, lines = self._fault
        self._fault = None
        self._faults.append(Fault(fault.seq, fault.kind, fault.vector, fault.error, fault.pc, fault.cr2, Dump(lines)))

    def _taken_faults(self) -> list[Fault]:
        taken, self._faults = self._faults, []
        return taken


def _blocks(text: bytes) -> Iterator[tuple[int, int]]:
    """The ranges of lines that are not records, adjacent ones joined."""
    done = 0
    if not text.startswith(_NEXT[1:]) and text:
        done = text.find(_NEXT) + 1 or len(text)
        yield 0, done
    for match in _OTHER_LINE.finditer(text, max(done - 1, 0)):
        start = match.end()
        if done <= start < len(text):
            done = text.find(_NEXT, start) + 1 or len(text)
            yield start, done


def _system(state: bytes) -> tuple[bytes, bytes]:
    """The part of a dump that only system instructions change: segments, tables, control registers, EFER."""
    start = state.find(b"ES =", 100)
    return state[start : state.find(b"DR0=", start + 400)], state[-21:]
