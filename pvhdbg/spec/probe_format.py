"""The format of the lines that the sample guest `probe` prints. A test holds docs/probe.md to this declaration.

::

    PVHPROBE1 <boot> <number> <kind> <words> *<crc>
"""

from __future__ import annotations

from enum import Enum

from pvhdbg.record import dataclass

MARK = "PVHPROBE"
VERSION = 1
LINE_LIMIT = 200  # characters; Xen cuts what a guest writes to its debug console beyond that
LINES_LIMIT = 1 << 16  # the number has 4 digits
HEAD = (
    ("boot", "8 hex digits that differ from boot to boot: the low half of the time stamp counter"),
    ("number", "4 hex digits: the line's number in its boot, from 0"),
    ("kind", "one of the kinds below"),
    ("crc", "8 hex digits: CRC-32 (as in zlib) of the line from its first P up to the last character in front of ` *`"),
)


class Form(Enum):
    """How a word is written: a pattern, and its description."""

    WORD = ("[0-9a-f]{8}", "8 hex digits")
    HALF = ("[0-9a-f]{4}", "4 hex digits")
    NAME = ("[a-z]{2,4}", "letters")
    BYTES = ("(?:[0-9a-f]{2}){1,64}", "2 hex digits a byte")

    @property
    def pattern(self) -> str:
        return str(self.value[0])

    @property
    def title(self) -> str:
        return str(self.value[1])


@dataclass(frozen=True)
class Word:
    """One word of a line."""

    name: str
    meaning: str
    form: Form = Form.WORD


@dataclass(frozen=True)
class LineKind:
    """One kind of line. `many` says that a boot prints more than one of it."""

    name: str
    meaning: str
    words: tuple[Word, ...] = ()
    many: bool = False


# Bits of the word `tests` of a `segment` line. The guest has the same numbers (probe.S, TEST_*).
TEST_READ = 1
TEST_SAME = 2
TEST_ZERO = 4
TEST_TOP = 8
TEST_LAST = 16
TEST_WRITE = 32
TESTS = {
    TEST_READ: "the segment can be read",
    TEST_SAME: "a read at the same offset returns what was stored through ds",
    TEST_ZERO: "offset 0 can be read, so it is not an expand-down segment",
    TEST_TOP: "offset 0xffffffff can be read",
    TEST_LAST: "offset 0xffffffff cannot be read; the last readable offset was searched for",
    TEST_WRITE: "the segment can be written",
}
# Bits of the word `found` of a `table` line.
FOUND_RIGHTS = 1
FOUND_LIMIT = 2

SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs", "ldt", "tr")
GENERAL = ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp", "eip", "eflags")
CONTROL = ("cr0", "cr2", "cr3", "cr4")
MSRS = {0xC0000080: "efer", 0xC0000100: "fs_base", 0xC0000101: "gs_base", 0xC0000102: "k_gs_base"}
GAPS = {
    "void": "what was written there did not stay: there is no RAM",
    "far": "it lies beyond 4 GiB, where a 32-bit guest without paging cannot read",
    "fill": "only 00 or only ff was read, and the probe did not test whether there is memory",
    "cut": "it is longer than the probe prints",
}

_NAME = Word("name", f"one of {' '.join(SEGMENTS)}", Form.NAME)
_TRUTH = "0 or 1"

KINDS: tuple[LineKind, ...] = (
    LineKind("begin", "the first line of a boot"),
    LineKind(
        "general",
        "the general registers before the guest changed any, where it runs as an offset in cs, and eflags",
        tuple(Word(name, name) for name in GENERAL),
    ),
    LineKind("control", "control registers", tuple(Word(name, name) for name in CONTROL)),
    LineKind("gdt", "sgdt", (Word("base", "linear address"), Word("limit", "bytes minus one", Form.HALF))),
    LineKind("idt", "sidt", (Word("base", "linear address"), Word("limit", "bytes minus one", Form.HALF))),
    LineKind(
        "segment",
        "a selector, and the results of accesses through its segment; for ldt and tr only the selector",
        (_NAME, Word("selector", "16 bits"), Word("tests", "bits, see below"), Word("last", "the offset that was searched for")),
        many=True,
    ),
    LineKind(
        "hidden",
        "the CPU's descriptor cache, in the layout of a VMCB: fs, gs, ldt and tr by VMSAVE on a CPU with SVM; under QEMU's TCG "
        "also es, cs, ss and ds, from the host save area of a VMRUN that is refused",
        (
            _NAME,
            Word("selector", "16 bits"),
            Word("attributes", "descriptor bits 40-47 in bits 0-7, 52-55 in bits 8-11"),
            Word("limit", "bytes, scaled"),
            Word("base_high", "bits 32-63 of the base"),
            Word("base_low", "bits 0-31 of the base"),
        ),
        many=True,
    ),
    LineKind(
        "msr",
        "a model specific register that this CPU has: " + ", ".join(f"{number:x} {name}" for number, name in MSRS.items()),
        (Word("number", "its number"), Word("high", "bits 32-63"), Word("low", "bits 0-31")),
        many=True,
    ),
    LineKind(
        "tests",
        "how far the other tests can be relied on, and the A20 gate",
        (
            Word("limits", f"{_TRUTH}: this CPU refuses an access beyond a segment's limit (QEMU's TCG never does)"),
            Word("null", f"{_TRUTH}: it refuses an access through a null selector"),
            Word("ds_at_0", f"{_TRUTH}: what was stored through ds lies where a base of 0 puts it"),
            Word("a20", f"{_TRUTH}: an odd megabyte and the even one below it are different memory"),
        ),
    ),
    LineKind("entry", "the address in the probe's own PHYS32_ENTRY note", (Word("address", "physical address"),)),
    LineKind("load", "a PT_LOAD of the probe", (Word("start", "physical address"), Word("size", "bytes in memory")), many=True),
    LineKind("cpuid", "cpuid", tuple(Word(name, name) for name in ("leaf", "eax", "ebx", "ecx", "edx")), many=True),
    LineKind("mem", "guest memory", (Word("address", "physical address"), Word("data", "the bytes", Form.BYTES)), many=True),
    LineKind(
        "gap",
        "memory that the probe should have printed and did not",
        (
            Word("high", "bits 32-63 of its address"),
            Word("low", "bits 0-31"),
            Word("size", "bytes"),
            Word("reason", "one of the reasons below", Form.NAME),
        ),
        many=True,
    ),
    LineKind(
        "table",
        "what lar and lsl report for a selector, from the loader's descriptor table; some KVM hosts end the machine here",
        (
            _NAME,
            Word("found", f"bits: {FOUND_RIGHTS} lar succeeded, {FOUND_LIMIT} lsl succeeded"),
            Word("rights", "lar"),
            Word("limit", "lsl, bytes"),
        ),
        many=True,
    ),
    LineKind(
        "end",
        "the report is complete; printed once before the table lines and once after them",
        (Word("lines", "lines so far"),),
        many=True,
    ),
)
BY_NAME = {kind.name: kind for kind in KINDS}
