"""Machine code as text, by the mode that the CPU executes it in: by iced-x86, or by a debugger that runs this Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING

from pvhdbg.record import NamedTuple

if TYPE_CHECKING:
    from iced_x86 import Formatter, UsedMemory
    from iced_x86 import Instruction as IcedInstruction


class Instruction(NamedTuple):
    """One instruction: its address, its bytes, and its text in Intel's syntax."""

    address: int
    data: bytes
    text: str


class Access(NamedTuple):
    """A memory operand: its segment register, offset in it, and size in bytes."""

    segment: str
    offset: int
    size: int


class Reach(NamedTuple):
    """What an instruction touches in addition to general registers and flags.

    `plain` says that its result depends on nothing but general registers, flags and the memory in `reads`, and that it changes nothing
    but those and the memory in `writes`. Where it is not, it may do anything else besides. `port` is a port that it reads `width`
    bytes of, `counter` the name of an instruction that reads a clock. `follows` holds the addresses of the instructions that may come next;
    it is empty where registers or memory tell them.
    """

    plain: bool
    reads: tuple[Access, ...] = ()
    writes: tuple[Access, ...] = ()
    port: int | None = None
    width: int = 1
    counter: str = ""
    follows: tuple[int, ...] = ()


class CallFlow(Enum):
    """What an instruction does to the order of execution, as far as a stack of calls needs it."""

    NEXT = "next"
    CALL = "call"
    RETURN = "return"
    INTERRUPT_RETURN = "interrupt return"


class CodePart(NamedTuple):
    """One instruction of a block: its offset and size in bytes, its flow, the full registers that it writes, or may write.

    `leads` are the addresses that may follow it, apart from the next one, None where registers or memory tell them.
    """

    offset: int
    size: int
    flow: CallFlow
    leads: tuple[int, ...] | None
    written: frozenset[str]


First = Callable[[bytes, int, int], "Instruction | None"]
_SUBSTITUTE: list[First] = []


def substitute(first: First) -> None:
    """Disassemble by `first` where iced-x86 is missing: code, address and bits give the first instruction; None for an invalid one."""
    _SUBSTITUTE[:] = [first]


@cache
def has_iced() -> bool:
    """Whether iced-x86 is installed, which reports more about an instruction than its text."""
    return find_spec("iced_x86") is not None


def available() -> bool:
    """Whether there is a disassembler: the Python of GDB 12 may have none."""
    return has_iced() or bool(_SUBSTITUTE)


def disassemble(code: bytes, address: int, bits: int = 32, count: int = 0) -> Iterator[Instruction]:
    """The instructions of `code`, which lies at `address` and is executed in 16-, 32- or 64-bit mode.

    At most `count` of them, all for 0. Ends before an invalid or incomplete instruction. Raises ImportError without a disassembler.
    """
    found = _decoded(code, address, bits, _intel()) if has_iced() or not _SUBSTITUTE else _by_substitute(code, address, bits)
    return islice(found, count or None)


def _by_substitute(code: bytes, address: int, bits: int) -> Iterator[Instruction]:
    (first,) = _SUBSTITUTE
    while code and (one := first(code, address, bits)) is not None:
        yield one
        code, address = code[len(one.data) :], address + len(one.data)


@lru_cache(maxsize=1 << 12)
def instruction_text(code: bytes, pc: int, bits: int) -> str:
    """The instruction as text; as bytes when it is invalid or there is no disassembler."""
    return next((one.text for one in disassemble(code, pc, bits, 1)), code.hex(" ")) if available() else code.hex(" ")


def parts(code: bytes, address: int, bits: int) -> list[CodePart]:
    """The instructions of a block of code. Ends before an invalid one. Raises ImportError without iced-x86."""
    from iced_x86 import Decoder, FlowControl, InstructionInfoFactory, Mnemonic, OpAccess, RegisterExt

    flows = {FlowControl.CALL: CallFlow.CALL, FlowControl.INDIRECT_CALL: CallFlow.CALL, FlowControl.RETURN: CallFlow.RETURN}
    returns = (Mnemonic.IRET, Mnemonic.IRETD, Mnemonic.IRETQ)
    reads = (OpAccess.READ, OpAccess.COND_READ, OpAccess.NONE, OpAccess.NO_MEM_ACCESS)
    factory, found, at = InstructionInfoFactory(), list[CodePart](), 0
    for one in Decoder(bits, code, ip=address):
        if one.is_invalid:
            break
        flow = CallFlow.INTERRUPT_RETURN if one.mnemonic in returns else flows.get(one.flow_control, CallFlow.NEXT)
        used = factory.info(one).used_registers()
        written = {RegisterExt.full_register(each.register) for each in used if each.access not in reads}
        leads = () if one.flow_control == FlowControl.NEXT else (one.near_branch_target,) if one.near_branch_target else None
        found.append(CodePart(at, one.len, flow, leads, frozenset(_register_names()[register] for register in written)))
        at += one.len
    return found


UNKNOWN_REACH = Reach(False)
_PLAIN_CODES = frozenset((b"\x90", b"\xf3\x90", b"\xfa"))  # nop, pause, cli


def reach(code: bytes, pc: int, bits: int, value: Callable[[str], int | None]) -> Reach:
    """What the instruction touches. `value` gives a register's value by its 64-bit name, as it is before the instruction.

    Without iced-x86 only jumps, nop, pause and cli are known to be plain.
    """
    if not has_iced():
        known = next((one for one in _PLAIN_CODES if code.startswith(one)), b"")
        return Reach(bool(known) or code[:1] in (b"\xeb", b"\xe9"), follows=(pc + len(known),) if known else ())
    from iced_x86 import Decoder, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, RegisterExt

    one = next(iter(Decoder(bits, code, ip=pc)), None)
    if one is None or one.is_invalid:
        return UNKNOWN_REACH
    if one.mnemonic == Mnemonic.IN:
        dx = value("rdx")
        port = one.immediate8 if one.op1_kind == OpKind.IMMEDIATE8 else None if dx is None else dx & 0xFFFF
        return Reach(False, port=port, width=RegisterExt.size(one.op0_register))
    if one.mnemonic in (Mnemonic.RDTSC, Mnemonic.RDTSCP):
        return Reach(False, counter="rdtsc")
    info = InstructionInfoFactory().info(one)
    plain = one.mnemonic in _plain_mnemonics() and all(
        RegisterExt.full_register(used.register) in _general() or (used.register in _segments() and used.access == OpAccess.READ)
        for used in info.used_registers()
    )
    reads, writes = [], []
    for memory in info.used_memory():
        if memory.access in (OpAccess.NONE, OpAccess.NO_MEM_ACCESS):
            continue
        access = _access(memory, bits, value)
        if access is None:
            plain = False
            continue
        if memory.access != OpAccess.WRITE:
            reads.append(access)
        if memory.access not in (OpAccess.READ, OpAccess.COND_READ):
            writes.append(access)
            plain &= memory.access in (OpAccess.WRITE, OpAccess.READ_WRITE)
    return Reach(plain, tuple(reads), tuple(writes), follows=_follows(one))


def _access(memory: UsedMemory, bits: int, value: Callable[[str], int | None]) -> Access | None:
    """Where an operand lies in memory; None where a register of its address, or its size, is not known."""
    from iced_x86 import MemorySizeInfo, Register, RegisterExt

    offset, size = memory.displacement, MemorySizeInfo(memory.memory_size).size
    for register, scale in ((memory.base, 1), (memory.index, memory.scale)):
        if register != Register.NONE:
            part = value(_register_names().get(RegisterExt.full_register(register), ""))
            if part is None:
                return None
            offset += (part & (1 << 8 * RegisterExt.size(register)) - 1) * scale
    return Access(_segment(memory.segment, bits), offset & ((1 << bits) - 1), size) if size else None


def _follows(one: IcedInstruction) -> tuple[int, ...]:
    from iced_x86 import FlowControl

    if one.flow_control == FlowControl.NEXT:
        return (one.next_ip,)
    if one.flow_control == FlowControl.CONDITIONAL_BRANCH:
        return (one.next_ip, one.near_branch_target)
    if one.flow_control in (FlowControl.UNCONDITIONAL_BRANCH, FlowControl.CALL) and one.near_branch_target:
        return (one.near_branch_target,)
    return ()


# iced-x86's names of CPUID's features that are not QEMU's, in lower case.
_BY_QEMU = {"sse4_1": "sse4.1", "sse4_2": "sse4.2", "cmpxchg16b": "cx16", "clfsh": "clflush", "lzcnt": "abm", "fpu": "fpu"}


def features(code: bytes, bits: int) -> tuple[str, ...]:
    """The features of CPUID that the instruction needs, by QEMU's names; () for none, for an invalid one, and without a disassembler."""
    if not has_iced():
        return ()
    from iced_x86 import CpuidFeature, Decoder

    one = next(iter(Decoder(bits, code)), None)
    if one is None or one.is_invalid:
        return ()
    names = {number: name.lower() for name, number in vars(CpuidFeature).items() if isinstance(number, int)}
    found = (names.get(number, "") for number in one.cpuid_features())
    return tuple(_BY_QEMU.get(name, name) for name in found if not name.startswith(("intel", "x64")))


@cache
def _plain_mnemonics() -> frozenset[int]:
    """Instructions whose effect iced-x86 tells in full by registers and memory, as far as their operands are general registers."""
    from iced_x86 import Mnemonic

    names = """JMP JO JNO JB JAE JE JNE JBE JA JS JNS JP JNP JL JGE JLE JG JCXZ JECXZ JRCXZ LOOP LOOPE LOOPNE CALL RET NOP PAUSE CLI CLD
        STD CLC STC CMC MOV MOVZX MOVSX MOVSXD LEA LEAVE PUSH POP XCHG ADD ADC SUB SBB CMP TEST AND OR XOR NOT NEG INC DEC SHL SHR SAR
        ROL ROR BT SETB SETAE SETE SETNE SETBE SETA SETS SETNS SETL SETGE SETLE SETG CMOVB CMOVAE CMOVE CMOVNE CMOVBE CMOVA CMOVS
        CMOVNS CMOVL CMOVGE CMOVLE CMOVG BSWAP CWDE CDQE CDQ CQO CBW CWD ENDBR32 ENDBR64 IMUL"""
    return frozenset(vars(Mnemonic)[name] for name in names.split())


@cache
def _general() -> frozenset[int]:
    """The general registers, by the number of their 64-bit ones."""
    from iced_x86 import Register

    return frozenset((*range(Register.RAX, Register.R15 + 1), Register.EIP, Register.RIP))


@cache
def _segments() -> frozenset[int]:
    from iced_x86 import Register

    return frozenset((Register.ES, Register.CS, Register.SS, Register.DS, Register.FS, Register.GS))


@cache
def _register_names() -> dict[int, str]:
    from iced_x86 import Register

    return {number: name.lower() for name, number in vars(Register).items() if isinstance(number, int)}


def _segment(register: int, bits: int) -> str:
    """The segment register's name; "" for those without a base in 64-bit code."""
    name = _register_names().get(register, "")
    return "" if bits == 64 and name in ("cs", "ds", "es", "ss") else name


def first_as_qemu(code: bytes, address: int, bits: int) -> Instruction | None:
    """The first instruction of `code` in AT&T's syntax, laid out as in QEMU's monitor; None for an invalid one.

    Raises ImportError without a disassembler.
    """
    for one in _decoded(code, address, bits, _att()) if has_iced() or not _SUBSTITUTE else _by_substitute(code, address, bits):
        mnemonic, *operands = one.text.split(maxsplit=1)
        if mnemonic.startswith("set"):
            mnemonic = mnemonic.removesuffix("b")  # of "seteb": setcc writes bytes only and needs no size suffix
        return one._replace(text=f"{mnemonic:<8} {''.join(operands)}".rstrip())
    return None


def _decoded(code: bytes, address: int, bits: int, formatter: Formatter) -> Iterator[Instruction]:
    from iced_x86 import Decoder, OpKind

    at = 0
    for one in Decoder(bits, code, ip=address):
        if one.is_invalid:
            return
        start, at = at, at + one.len
        if bits == 16 and address >> 16 and one.op0_kind == OpKind.NEAR_BRANCH16:  # linear, as `address` is
            one.op0_kind = OpKind.NEAR_BRANCH32
            one.near_branch32 = address + at + (one.near_branch16 - address - at + 0x8000 & 0xFFFF) - 0x8000 & 0xFFFFFFFF
        yield Instruction(address + start, code[start:at], formatter.format(one))


@cache
def _intel() -> Formatter:
    from iced_x86 import Formatter, FormatterSyntax

    return _laid_out(Formatter(FormatterSyntax.MASM))  # its INTEL swaps far pointers: "jmp far 0x100210, 8"


@cache
def _att() -> Formatter:
    from iced_x86 import Formatter, FormatterSyntax

    formatter = _laid_out(Formatter(FormatterSyntax.GAS))
    formatter.gas_show_mnemonic_size_suffix = True
    return formatter


def _laid_out(formatter: Formatter) -> Formatter:
    formatter.hex_prefix, formatter.hex_suffix, formatter.uppercase_hex = "0x", "", False
    formatter.branch_leading_zeros = formatter.add_leading_zero_to_hex_numbers = False
    formatter.space_after_operand_separator = formatter.space_between_memory_add_operators = True
    formatter.rip_relative_addresses = True
    formatter.show_branch_size = formatter.masm_add_ds_prefix32 = False
    return formatter
