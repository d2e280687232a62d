"""The probe's log: good lines are found in anything, what they say becomes a Snapshot, and what is wrong is named."""

import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvhdbg.decode.probe_log import ProbeLog, decode, holds_line
from pvhdbg.errors import BadLog
from pvhdbg.machine.capture import decoded
from pvhdbg.model import NotLookedAt, Unavailable, Vmm
from pvhdbg.rules.catalogue import judge
from pvhdbg.rules.declare import Outcome
from pvhdbg.spec.probe_format import KINDS, LINE_LIMIT
from pvhdbg.targets.recorded import RecordedTarget
from tests.support.sorting import examples

# Recorded from QEMU 7.2.22, -M pc -m 256M -accel kvm -append console=ttyS0: a CPU that checks limits and has no SVM. That
# host's KVM ended the machine at `lar`, so that no `table` line is in it.
KVM = (Path(__file__).parent / "probe_logs" / "kvm.log").read_bytes()
LINES = KVM.splitlines(keepends=True)
BOOT = LINES[0].split()[1].decode()


def line(number: int, text: str, boot: str = "0000cafe", version: int = 1) -> bytes:
    """A line of the format, written without pvhdbg."""
    words = f"PVHPROBE{version} {boot} {number:04x} {text}".encode()
    return words + b" *%08x\r\n" % zlib.crc32(words)


def read(*chunks: bytes) -> ProbeLog:
    return decode(chunks)


def outcomes(log: ProbeLog) -> dict[str, Outcome]:
    return {verdict.rule.id: verdict.outcome for verdict in judge(decoded(RecordedTarget(log.snapshot, "log"), log.snapshot, "v1"))}


WHOLE = read(KVM)
VERDICTS = outcomes(WHOLE)


# --- what a log says ----------------------------------------------------------------------------------------------


def test_registers_of_a_recorded_boot() -> None:
    registers = WHOLE.snapshot.registers
    assert (registers["rip"], registers["ebx"], registers["cr0"], registers["eflags"]) == (0x100000, 0x21E0, 0x11, 6)
    assert (registers["cs"], registers["ds"], registers["efer"], registers["fs_base"]) == (8, 0x10, 0, 0)
    for name in ("r8", "cr8"):
        with pytest.raises(Unavailable, match="cannot see"):
            registers[name]
    assert WHOLE.warnings == ()
    assert WHOLE.snapshot.vmm == Vmm(None, None, "kvm")


def test_accesses_prove_a_flat_segment_on_a_cpu_that_checks() -> None:
    segments = WHOLE.snapshot.segments
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        assert (segments[name].base, segments[name].limit) == (0, 0xFFFFFFFF)
        assert segments[name].flags == (0xC09B00 if name == "cs" else 0xC09300)
    for name in ("ldt", "tr"):
        assert (segments[name].selector, segments[name].base, segments[name].limit, segments[name].flags) == (0, None, None, None)
    assert VERDICTS["PVH-CS-FLAT"] is Outcome.PASS
    assert VERDICTS["PVH-TR-LIMIT"] is Outcome.UNKNOWN


def replaced(pattern: str, words: str) -> bytes:
    """The recorded log with one line's words changed, and its checksum made right."""
    changed = []
    for one in LINES:
        if re.search(pattern, one.decode()):
            number, boot = int(one.split()[2], 16), one.split()[1].decode()
            changed.append(line(number, words, boot))
        else:
            changed.append(one)
    assert changed != LINES
    return b"".join(changed)


@pytest.mark.parametrize(
    ("tests", "last", "limit"),
    [(0x0F, 0, 0xFFFFFFFF), (0x17, 0xFFFF, 0xFFFF), (0x07, 0, None), (0x0B, 0, None), (0, 0, None), (0x13, 5, None)],
)
def test_a_limit_is_what_could_be_read(tests: int, last: int, limit: int | None) -> None:
    log = read(replaced(" segment ds ", f"segment ds 00000010 {tests:08x} {last:08x}"))
    assert log.snapshot.segments["ds"].limit == limit
    outcome = outcomes(log)["PVH-DS-FLAT"]
    assert outcome is (Outcome.UNKNOWN if limit is None else Outcome.PASS if limit == 0xFFFFFFFF else Outcome.FAIL)


def test_a_moved_segment_is_no_flat_one() -> None:
    log = read(replaced(" segment es ", "segment es 00000010 0000002d 00000000"))  # read, but not the word stored through ds
    assert log.snapshot.segments["es"].base is None
    log = read(replaced(" tests ", "tests 00000001 00000001 00000000 00000001"))  # ds itself is elsewhere
    assert log.snapshot.segments["ds"].base is None
    log = read(replaced(" msr c0000100 ", "msr c0000100 00000000 00012000"))
    assert log.snapshot.segments["fs"].base == 0x12000


def test_a_cpu_that_checks_nothing_proves_nothing() -> None:
    log = read(replaced(" tests ", "tests 00000000 00000000 00000001 00000001"))
    assert log.snapshot.segments["cs"].limit is None
    assert "limit 0xffffffff" in log.snapshot.segments["cs"].missing  # what the table says is told, not believed
    assert outcomes(log)["PVH-CS-FLAT"] is Outcome.UNKNOWN


def test_what_the_cpu_tells_comes_first() -> None:
    number = len(LINES)
    log = read(KVM, line(number, "hidden tr 00000018 0000008b 00000067 00000001 00000002", BOOT))
    tr = log.snapshot.segments["tr"]
    assert (tr.selector, tr.base, tr.limit, tr.flags) == (0x18, 0x1_0000_0002, 0x67, 0x8B00)
    log = read(KVM, line(number, "hidden cs 00000008 00000c9a 0fffffff 00000000 00000000", BOOT))
    assert (log.snapshot.segments["cs"].limit, log.snapshot.segments["cs"].flags) == (0x0FFFFFFF, 0xC09A00)
    assert outcomes(log)["PVH-CS-FLAT"] is Outcome.FAIL


@pytest.mark.parametrize(
    ("leaf", "letters", "more", "vmm"),
    [
        (0x40000000, b"TCGTCGTCGTCG", 0, Vmm("QEMU", None, "tcg")),
        (0x40000000, b"KVMKVMKVM\0\0\0", 0, Vmm(None, None, "kvm")),
        (0x40000000, b"XenVMMXenVMM", 0x00040011, Vmm("Xen", "4.17")),
        (0x40000100, b"XenVMMXenVMM", 0x00040012, Vmm("Xen", "4.18")),
        (0x40000000, b"VMwareVMware", 0, Vmm()),
    ],
)
def test_who_the_cpu_says_runs_it(leaf: int, letters: bytes, more: int, vmm: Vmm) -> None:
    ebx, ecx, edx = (int.from_bytes(letters[at : at + 4], "little") for at in (0, 4, 8))
    said = [
        line(0, "cpuid 00000001 00000000 00000000 80000000 00000000"),
        line(1, f"cpuid {leaf:08x} 00000000 {ebx:08x} {ecx:08x} {edx:08x}"),
        line(2, f"cpuid {leaf + 1:08x} {more:08x} 00000000 00000000 00000000"),
    ]
    assert read(*said).snapshot.vmm == vmm
    said[0] = line(0, "cpuid 00000001 00000000 00000000 00000000 00000000")  # it says that none does
    assert read(*said).snapshot.vmm == Vmm()


def test_gaps_are_holes_and_only_a_void_is_an_absence() -> None:
    log = read(
        line(0, "gap 00000000 b0000000 00000038 void"),
        line(1, "gap 00000001 00000000 00000020 far"),
        line(2, "mem 00001000 78c56e33"),
    )
    memory = log.snapshot.memory
    assert memory.read(0x1000, 4) == b"\x78\xc5\x6e\x33"
    for address, kind in ((0xB0000000, Unavailable), (1 << 32, NotLookedAt)):
        with pytest.raises(Unavailable) as caught:
            memory.read(address, 8)
        assert type(caught.value) is kind


# --- what else is in the log --------------------------------------------------------------------------------------


def interleaved(data: bytes) -> bytes:
    return b"".join(b"[    0.%06d] kernel: something else\n" % n + one for n, one in enumerate(data.splitlines(keepends=True)))


SAME: dict[str, Callable[[bytes], bytes]] = {
    "LF": lambda data: data.replace(b"\r\n", b"\n"),
    "CR LF doubled": lambda data: data.replace(b"\r\n", b"\r\r\n"),
    "CR": lambda data: data.replace(b"\r\n", b"\r"),
    "no line ends": lambda data: data.replace(b"\r\n", b""),
    "prefixed": lambda data: b"".join(b"(XEN) [2026-11-21 08:00:00] (d1) " + one for one in data.splitlines(keepends=True)),
    "colours": lambda data: b"".join(b"\x1b[0m" + one for one in data.splitlines(keepends=True)),
    "interleaved": interleaved,
    "repeated": lambda data: data + data,
    "each line twice": lambda data: b"".join(one * 2 for one in data.splitlines(keepends=True)),
    "backwards": lambda data: b"".join(reversed(data.splitlines(keepends=True))),
    "after binary": lambda data: bytes(range(256)) * 4096 + data + b"\xff" * 70000,
    "NULs": lambda data: bytes(3 << 20) + data + bytes(3 << 20),
    "half a mark in front": lambda data: b"PVHPROB" + data,
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
@pytest.mark.parametrize("piece", [1 << 20, 4096, 37])
def test_what_is_around_the_lines_does_not_matter(change: Callable[[bytes], bytes], piece: int) -> None:
    data = change(KVM)
    if len(data) // piece > 50000:
        piece = 997
    log = decode(data[at : at + piece] for at in range(0, len(data), piece))
    assert log == WHOLE


def test_a_line_cut_by_another_message_is_named() -> None:
    at = KVM.index(b" general ") + 30
    log = read(KVM[:at] + b"\n[    0.5] oops\n" + KVM[at:])
    assert log.snapshot.registers.get("eax") is None
    assert log.snapshot.registers.get("cr0") == 0x11
    assert any("0001" in warning and "1 of" in warning for warning in log.warnings)
    assert any("checksum" in warning for warning in log.warnings)
    assert outcomes(log)["PVH-EBX-SET"] is Outcome.UNKNOWN
    assert outcomes(log)["PVH-CR0-PE"] is Outcome.PASS


@pytest.mark.parametrize("kept", [len(LINES) - 1, 40, 20, 6, 3])
def test_a_log_that_is_cut(kept: int) -> None:
    log = read(b"".join(LINES[:kept]) + LINES[kept][:25])
    assert any("ends before" in warning for warning in log.warnings)
    for rule, outcome in outcomes(log).items():
        assert outcome in (VERDICTS[rule], Outcome.UNKNOWN), rule
    assert outcomes(log)["PVH-CR0-PE"] is Outcome.PASS


@pytest.mark.parametrize("number", range(len(LINES)))
def test_no_single_lost_line_makes_a_violation(number: int) -> None:
    log = read(b"".join(LINES[:number] + LINES[number + 1 :]))
    for rule, outcome in outcomes(log).items():
        assert outcome in (VERDICTS[rule], Outcome.UNKNOWN), rule
    assert log.warnings


def test_of_several_boots_the_last_complete_one() -> None:
    other = KVM.replace(BOOT.encode(), b"0badf00d")
    again = b"".join(line(int(one.split()[2], 16), one[len("PVHPROBE1 00000000 0000 ") :].rsplit(b" *", 1)[0].decode(), "0badf00d")
                     for one in LINES)  # fmt: skip
    changed = replaced(" control ", "control 80000011 00000000 00000000 00000000")
    assert read(changed, again).snapshot.registers["cr0"] == 0x11
    assert read(again, changed).snapshot.registers["cr0"] == 0x80000011
    cut = b"".join(changed.splitlines(keepends=True)[:30])
    log = read(again, cut)
    assert log.snapshot.registers["cr0"] == 0x11  # the last one is not complete
    assert any("2 boots" in warning and "0badf00d" in warning for warning in log.warnings)
    with pytest.raises(BadLog):
        read(other)  # its checksums are those of the first


def test_two_lines_with_one_number() -> None:
    log = read(KVM, line(2, "control 80000011 00000000 00000000 00000000", BOOT))
    assert log.snapshot.registers["cr0"] == 0x11
    assert any("an earlier line and other content" in warning for warning in log.warnings)


# --- what cannot be used ------------------------------------------------------------------------------------------


def test_another_version_is_named() -> None:
    with pytest.raises(BadLog, match="version 2") as caught:
        read(line(0, "begin", version=2) + line(1, "control 00000011 00000000 00000000 00000000", version=2))
    assert caught.value.exit_code == 2
    assert caught.value.todo
    assert any("version 2" in warning for warning in read(KVM, line(7, "begin", version=2)).warnings)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no line"),
        (b"Linux version 6.1\n" * 1000, "no line"),
        (line(0, "begin") + line(1, "end 00000002"), "nothing in between"),
        (re.sub(rb"\*[0-9a-f]", b"*g", KVM), "with a wrong checksum"),
        (KVM.replace(b"0", b"1"), "with a wrong checksum"),
        (b"PVHPROBE1 " * 5000, "no line"),
        (b"PVHPROBE1 0000cafe " * 5000, "with a wrong checksum"),
    ],
)
def test_nothing_can_be_used(data: bytes, words: str) -> None:
    with pytest.raises(BadLog, match=words) as caught:
        read(data)
    assert caught.value.todo


def test_lines_of_kinds_that_nobody_knows() -> None:
    log = read(
        KVM, line(0x200, "weather sunny", BOOT), line(0x201, "control 00000011", BOOT), line(0x202, "segment xx 0 0 0", BOOT)
    )
    assert log.snapshot == WHOLE.snapshot
    for kind in ("weather", "control", "segment"):
        assert any(repr(kind) in warning for warning in log.warnings)


def test_a_number_beyond_reason_costs_nothing() -> None:
    log = read(line(0, "control 00000011 00000000 00000000 00000000"), line(1, "end ffffffff"))
    assert any("missing" in warning for warning in log.warnings)
    assert len(max(log.warnings, key=len)) < 300


def test_endless_boots_and_lines_are_bounded() -> None:
    log = decode(line(n & 0xFFFF, f"mem {n << 5 & 0xFFFFFFFF:08x} {n & 0xFF:02x}", f"{n >> 9:08x}") for n in range(100_000))
    assert any(f"{-(-100_000 // 512)} boots" in warning for warning in log.warnings)
    many = decode(line(n & 0xFFFF, f"mem {(n & 0xFFFF) << 4:08x} {'00' * 32}", f"{n >> 16:08x}") for n in range(70_000))
    assert len(many.snapshot.memory.pieces) == 1  # they overlap, and joining them is linear


def test_a_lone_mark_is_no_line() -> None:
    assert not holds_line(b"PVHPROBE1 and some words")
    assert not holds_line(b"")
    assert holds_line(b"noise" + LINES[0])
    assert holds_line(line(0, "begin", version=12))


# --- anything -----------------------------------------------------------------------------------------------------


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The recorded log with pieces of it cut out, changed, moved, repeated, and others put between."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(lines) - 1, 0)))
        match draw(st.integers(0, 6)):
            case 0:
                del lines[at : at + draw(st.integers(1, 60))]
            case 1:
                lines.insert(at, draw(st.binary(max_size=80)))
            case 2 if lines:
                where = draw(st.integers(0, len(lines[at])))
                lines[at] = lines[at][:where] + draw(st.binary(max_size=8)) + lines[at][where + draw(st.integers(0, 8)) :]
            case 3:
                lines = lines[at:] + lines[:at]
            case 4:
                lines += lines[at : at + 20]
            case 5 if lines and len(lines[at].split()) > 4:  # a word changed, and the checksum right: a lying guest
                words = lines[at].split()
                changed = draw(st.integers(4, len(words) - 1))
                if words[changed].startswith(b"*"):
                    continue
                value = draw(st.integers(0, (1 << 4 * min(len(words[changed]), 16)) - 1))
                words[changed] = b"%0*x" % (len(words[changed]), value)
                body = b" ".join(words[:-1])
                lines[at] = body + b" *%08x\r\n" % zlib.crc32(body)
            case 6:
                lines = [b"".join(lines)[: draw(st.integers(0, len(KVM)))]]
    return b"".join(lines)


@settings(deadline=None, max_examples=examples(150))
@given(mutated(), st.integers(1, 5000))
def test_any_log_gives_a_machine_or_a_bad_log(data: bytes, piece: int) -> None:
    try:
        log = decode(data[at : at + piece] for at in range(0, len(data), piece))
    except BadLog as bad:
        assert (bad.what != "", bad.todo != "") == (True, True)  # noqa: PT017 - any other exception fails the test
        return
    assert len(outcomes(log)) == len(VERDICTS)
    assert all(len(warning) < 400 for warning in log.warnings)


@settings(deadline=None, max_examples=examples(100))
@given(st.sets(st.integers(0, len(LINES) - 1), max_size=len(LINES)), st.integers(0, 255))
def test_lost_and_damaged_lines_never_turn_a_verdict_round(hit: set[int], byte: int) -> None:
    data = b"".join(one if n not in hit else bytes([*one[:40], one[40] ^ (byte or 1), *one[41:]]) for n, one in enumerate(LINES))
    try:
        log = read(data)
    except BadLog:
        return
    for rule, outcome in outcomes(log).items():
        assert outcome in (VERDICTS[rule], Outcome.UNKNOWN), rule


def test_every_kind_of_the_format_can_be_written_in_a_line() -> None:
    lengths = {"[0-9a-f]{8}": 8, "[0-9a-f]{4}": 4, "[a-z]{2,4}": 4, "(?:[0-9a-f]{2}){1,64}": 64}
    for kind in KINDS:
        text = " ".join([kind.name, *("0" * lengths[word.form.pattern] for word in kind.words)])
        assert len(line(0, text)) < LINE_LIMIT, kind.name
