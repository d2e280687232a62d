"""Instructions that the CPU refuses: #UD, #GP, #DE, #NM, and the data accesses of a page fault."""

from __future__ import annotations

from pvhdbg.decode.cpu_mode import flag
from pvhdbg.tracing import faults
from pvhdbg.tracing.addresses import AddressClass, classify
from pvhdbg.tracing.causes.draft import Case, Draft
from pvhdbg.tracing.opcodes import Effect, divisor, effect_of

_EFER_MSR = 0xC0000080
_SSE = ("sse", "sse2", "sse3", "pni", "ssse3", "sse4.1", "sse4.2", "aes", "pclmulqdq")
_XSAVE = ("xsave", "avx", "avx2", "fma", "f16c")
_STATE = "pvhdbg trace --what state"
_TF = 1 << 8  # eflags
_OPERANDS = "look at the operands of the instruction in the registers above"


def page_fault(draft: Draft, case: Case) -> bool:
    """A page fault that is neither the stack's nor a fetch in wrong tables."""
    fault, found = case.fault, draft.address
    if fault.vector != faults.PF:
        return False
    error = fault.error or 0
    if faults.is_fetch(fault):
        if error & 1 and not error & 8:
            return draft.found(
                "no-execute page",
                "The page tables forbid to execute there",
                next="clear the no-execute bit of the page, or see who jumped there",
            )
        return draft.found("wild jump", next="see where the last jump, call or return above took its target from")
    if found is not None and found.kind is AddressClass.LINKED:
        return draft.found("virtual address too early", next="")
    if found is not None and found.kind is AddressClass.NULL:
        return draft.found(
            "null pointer",
            f"That is {found.words}",
            next=f"see which register held the pointer, and where it should be set: {_STATE}",
        )
    if error & 8:
        return draft.found(
            "reserved bit", next="see which entry of the walk below has a bit set that the CPU reserves, and clear it"
        )
    if error & 1:
        return draft.found(
            "read-only page", next="make the page writable in its tables, or see who wrote there: it may be constant data"
        )
    return draft.found("bad pointer", next=f"see which register held the address, and who wrote it: {_STATE}")


def invalid_opcode(draft: Draft, case: Case) -> bool:
    """#UD: on purpose, or an instruction that this CPU lacks or that is not enabled."""
    if case.fault.vector != faults.UD:
        return False
    code = b"" if case.event is None else case.event.code
    if effect_of(code, 64) is Effect.UD2:
        return draft.found(
            "stopped itself",
            "`ud2`: the kernel stopped itself there (Linux: BUG()), because something was not as it needs it",
            next="see what the function above checks; what the loader handed over is judged by: pvhdbg check",
        )
    text = f" `{case.text}`" if case.text else ""
    lacking = next((name for name in case.death.needs if case.around.feature(name) is False), None)
    if lacking is not None:
        return draft.found(
            "missing CPU feature",
            f"the CPU does not know the instruction{text}: it needs {lacking}, which this machine's CPU does not have (CPUID)",
            next=f"choose a CPU model that has {lacking} (--cpu max), or ask CPUID before",
        )
    state = case.death.state
    if any(name in _SSE for name in case.death.needs):
        if flag(state, "cr0", "EM"):
            return draft.found(
                "SSE not enabled", f"{text.strip()} needs SSE, and CR0.EM is 1", next="clear CR0.EM (bit 2) before SSE is used"
            )
        if flag(state, "cr4", "OSFXSR") is False:
            return draft.found(
                "SSE not enabled",
                f"{text.strip()} needs SSE, and CR4.OSFXSR is 0: the kernel has not enabled it",
                next="set CR4.OSFXSR (bit 9), and CR4.OSXMMEXCPT, before SSE is used; or compile with -mno-sse (-mgeneral-regs-only)",
            )
    if any(name in _XSAVE for name in case.death.needs) and flag(state, "cr4", "OSXSAVE") is False:
        return draft.found(
            "XSAVE not enabled",
            f"{text.strip()} needs XSAVE, and CR4.OSXSAVE is 0: the kernel has not enabled it",
            next="ask CPUID 1, ECX bit 26, then set CR4.OSXSAVE (bit 18) before it is used",
        )
    return draft.found(
        "#UD",
        f"the CPU does not know the instruction{text}",
        next="choose a CPU model that has it (--cpu max), or see whether this is code",
    )


def non_canonical(draft: Draft, case: Case) -> bool:
    """#GP or #SS for a 64-bit address whose upper bits are not all equal."""
    if case.fault.vector not in (faults.GP, faults.SS):
        return False
    for one in case.death.touched:
        found = classify(one.address, case.death.state, case.around)
        if found.kind is AddressClass.NOT_CANONICAL:
            draft.address = found
            return draft.found(
                "non-canonical address",
                f"`{case.text}`: {'a write' if one.write else 'a read'} at {one.address:#x}, which is not a canonical address: its upper "
                "bits are not all equal",
                next=f"see which register held the address, and who computed it: {_STATE}",
            )
    return False


def msr(draft: Draft, case: Case) -> bool:
    """#GP at rdmsr or wrmsr."""
    effect = Effect.OTHER if case.event is None else effect_of(case.event.code, case.event.mode.bits)
    if case.fault.vector != faults.GP or effect not in (Effect.WRMSR, Effect.RDMSR):
        return False
    state, kind = case.death.state, effect.value
    number = state.get("rcx", 0) & 0xFFFFFFFF
    value = (state.get("rdx", 0) & 0xFFFFFFFF) << 32 | state.get("rax", 0) & 0xFFFFFFFF
    if number == _EFER_MSR:
        return draft.found(
            kind,
            f"{kind}: the CPU takes no {value:#x} in EFER: one of the features is not there (long mode? NX?)",
            next="choose a CPU model that has them (--cpu max), and ask CPUID before",
        )
    words = f" does not take {value:#x}, or does not exist on this CPU" if effect is Effect.WRMSR else " does not exist on this CPU"
    return draft.found(
        kind,
        f"{kind}: MSR {number:#x}{words} (#GP)",
        next="ask CPUID for the feature before its MSR is used, or choose a CPU model that has it (--cpu max)",
    )


def bad_selector(draft: Draft, case: Case) -> bool:
    """A fault about a descriptor that the instruction names."""
    error = case.fault.error or 0
    if case.fault.vector not in faults.WITH_SELECTOR or not error:
        return False
    state, around = case.death.state, case.around
    code = case.event is not None and effect_of(case.event.code, case.event.mode.bits) in (
        Effect.FAR_JUMP,
        Effect.FAR_CALL,
        Effect.FAR_RETURN,
        Effect.IRET,
    )
    why = faults.descriptor(error & 0xFFF8, state, around, code=code) if not error & 6 else ""
    draft.sentences.append(
        f"{faults.name(case.fault.vector)}{f' at `{case.text}`' if case.text else ''}: {faults.selector(error, why=why)}"
    )
    parts = ("gdt_base", "gdt_limit")
    if not error & 6 and all(state.get(part) is not None and state.get(part) == around.start.get(part) for part in parts):
        draft.promises.append(
            "the GDT: unspecified at the entry; only the hidden state of CS, DS, ES and SS is promised, load your own"
        )
        return draft.found(
            "no GDT of its own",
            "The GDT is still the one that was loaded at the entry: the loader's",
            next="load a GDT of the kernel's own (lgdt) before a segment register is loaded",
        )
    return draft.found(
        "bad selector", next="see the descriptor of that selector, and the base and limit of the table in the registers below"
    )


def division(draft: Draft, case: Case) -> bool:
    """#DE: by zero, or a quotient that is too large."""
    if case.fault.vector != faults.DE:
        return False
    where = f" at `{case.text}`" if case.text else ""
    value = divisor_of(case)
    if value is None:
        return draft.found("#DE", f"{faults.name(0)}{where}", next=_OPERANDS)
    if value == 0:
        return draft.found(
            "divide by zero", f"{faults.name(0)}{where}: the divisor is 0", next="see where the divisor was to be set"
        )
    return draft.found(
        "divide overflow",
        f"{faults.name(0)}{where}: the quotient does not fit, the divisor is {value:#x}",
        next="see what the upper half of the dividend holds (edx or rdx): it must be set, or cleared, before a division",
    )


def no_fpu(draft: Draft, case: Case) -> bool:
    """#NM: the FPU is switched off."""
    if case.fault.vector != faults.NM:
        return False
    bits = [name for name in ("EM", "TS") if flag(case.death.state, "cr0", name)]
    which = f": CR0.{' and CR0.'.join(bits)} is set" if bits else ""
    return draft.found(
        "FPU not enabled",
        f"`{case.text}` needs the FPU{which}",
        next="clear CR0.EM and CR0.TS before floating-point or SSE code runs",
    )


def single_step(draft: Draft, case: Case) -> bool:
    """#DB: the trap flag is set (Intel SDM 3B, 18.3.1.4)."""
    if case.fault.vector != faults.DB or not case.death.state.get("eflags", 0) & _TF:
        return False
    return draft.found(
        "single step",
        f"{faults.name(faults.DB)} behind each instruction: eflags.TF is set",
        next="see what set it: eflags are loaded by popf and iret",
    )


def any_other(draft: Draft, case: Case) -> bool:
    """What is known of every exception."""
    name = faults.name(case.fault.vector)
    return draft.found(name.split()[0], f"{name}{f' at `{case.text}`' if case.text else ''}", next=_OPERANDS)


def divisor_of(case: Case) -> int | None:
    """The divisor of the division that was hit; None for another instruction, or where it was not observed."""
    if case.event is None:
        return None
    found = divisor(case.event.code, case.event.mode.bits)
    if found is None:
        return None
    mask = (1 << 8 * found.size) - 1
    if found.register:
        value = case.death.state.get(found.register)
        return None if value is None else value & mask
    address = next((one.address for one in case.death.touched if not one.write), None)
    data = b"" if address is None else case.around.bytes_at(address, found.size, case.death.state)
    return int.from_bytes(data, "little") if data else None
