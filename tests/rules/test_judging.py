"""What `judge` makes of a rule: unknown, known, not applicable, other protocols, severities."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvhdbg.decode.acpi import RsdpV1
from pvhdbg.decode.boot_state import BootState
from pvhdbg.model import DescriptorTable, Vmm
from pvhdbg.report.document import Report
from pvhdbg.rules.catalogue import MACHINE_RULES, judge
from pvhdbg.rules.declare import Outcome, Severity, Verdict
from pvhdbg.rules.examples import Example, at_draft_a_entry, at_entry, summed
from pvhdbg.spec.revisions import DRAFT_A, V0, V1
from pvhdbg.spec.start_info import MemoryMapEntry, ModuleEntry
from tests.support.sorting import examples

QEMU = Vmm("QEMU", "7.2.22", "tcg")
QBOOT = {"vmm": QEMU, "gdt": DescriptorTable(0xFFFFFFC1, 0x17), "eax": 0x2BADB002}
PVH_BIN_ROM = {0xCB000: b"\x55\xaa" + bytes(30) + b"PVH loader" + bytes(1494)}
PVH_BIN = {"vmm": QEMU, "gdt": DescriptorTable(0xCB118, 0x27), "memory": PVH_BIN_ROM}


def verdicts(boot: BootState) -> dict[str, Verdict]:
    return {verdict.rule.id: verdict for verdict in judge(boot)}


def outcomes(boot: BootState, *wanted: Outcome) -> set[str]:
    return {id for id, verdict in verdicts(boot).items() if verdict.outcome in wanted}


def test_a_correct_hand_off_has_nothing_but_passes() -> None:
    boot = at_entry().boot(V1)
    assert outcomes(boot, Outcome.FAIL, Outcome.KNOWN, Outcome.UNKNOWN, Outcome.REMARK) == set()
    assert Report(boot, judge(boot)).exit_code == 0


def test_each_width_of_draft_a_conforms_to_draft_a() -> None:
    for width in (32, 64):
        boot = at_draft_a_entry(width).boot(DRAFT_A)
        assert boot.draft_a.width == width
        assert outcomes(boot, Outcome.FAIL, Outcome.UNKNOWN) == set()
        assert outcomes(boot, Outcome.PASS) >= {"DA-ESI", "DA-EAX", "DA-MAGIC", "DA-CR0", "DA-FSGS", "DA-A20"}


def test_a_shipped_hand_off_is_no_draft_a_hand_off() -> None:
    boot = at_entry().boot(DRAFT_A)
    assert {"DA-EAX"} <= outcomes(boot, Outcome.FAIL)
    assert verdicts(boot)["PVH-CR4-ZERO"].outcome is Outcome.NOT_APPLICABLE


def test_without_hidden_state_the_segment_rules_are_unknown() -> None:
    boot = at_entry(segments=False).boot(V1)
    unknown = outcomes(boot, Outcome.UNKNOWN)
    assert unknown == {
        rule.id for rule in MACHINE_RULES if rule.id.split("-")[1] in ("CS", "DS", "ES", "SS", "TR", "FSGS", "SEG")
    } - {"DA-FSGS"}
    assert Report(boot, judge(boot)).exit_code == 0
    assert Report(boot, judge(boot), strict=True).exit_code == 4


@pytest.mark.parametrize(
    ("register", "rules"),
    [
        ("cr0", {"PVH-CR0-PE", "PVH-CR0-PG", "PVH-CR0-REST", "PVH-CR0-ET"}),
        ("cr4", {"PVH-CR4-ZERO"}),
        ("efer", {"PVH-EFER-LMA"}),
        ("eflags", {"PVH-EFL-VM", "PVH-EFL-IF", "PVH-EFL-TF", "PVH-EFL-DF"}),
        ("esp", {"PVH-ESP"}),
    ],
)
def test_a_register_that_was_not_observed_makes_its_rules_unknown(register: str, rules: set[str]) -> None:
    assert outcomes(at_entry(unobserved=[register]).boot(V1), Outcome.UNKNOWN) == rules


@pytest.mark.parametrize(
    "changes",
    [{"ebx": 0}, {"ebx": 0xB0000000}, {"magic": 0x12345678}],
    ids=["null", "stray", "spoilt"],
)
def test_without_start_info_its_rules_are_unknown(changes: dict[str, int]) -> None:
    boot = at_entry(**changes).boot(V1)
    assert {rule.id for rule in MACHINE_RULES if rule.id.startswith("SI-")} == outcomes(boot, Outcome.UNKNOWN) - {"PVH-EBX-MAGIC"}
    assert Report(boot, judge(boot)).exit_code == 1


def test_a_kernel_that_was_not_seen_makes_its_rules_unknown() -> None:
    unknown = outcomes(at_entry(kernel=None).boot(V1), Outcome.UNKNOWN)
    assert unknown == {"PVH-EIP-NOTE", "PVH-LOAD-RAM", "SI-MOD-RAM", "SI-MM-RAM1M", "SI-OVERLAP"}


def test_a_version_0_structure_has_no_version_1_clauses() -> None:
    boot = at_entry(version=0).boot(V1)
    assert verdicts(boot)["SI-VERSION-0"].outcome is Outcome.FAIL
    assert Report(boot, judge(boot)).exit_code == 0
    assert Report(boot, judge(boot), strict=True).exit_code == 1
    for id in ("SI-MM-PRESENT", "SI-MM-TYPE", "SI-RESERVED-0", "SI-MOD-RAM"):
        assert verdicts(boot)[id].outcome is Outcome.NOT_APPLICABLE, id
    assert verdicts(at_entry(version=0).boot(V0))["SI-VERSION-0"].outcome is Outcome.NOT_APPLICABLE


def test_a_higher_version_is_read_as_the_prefix_that_is_known() -> None:
    boot = at_entry(version=7, reserved=1).boot(V1)
    assert verdicts(boot)["SI-VERSION-KNOWN"].outcome is Outcome.REMARK
    assert verdicts(boot)["SI-RESERVED-0"].outcome is Outcome.FAIL


def test_ss_is_a_should_in_the_text_before_xen_4_14() -> None:
    assert verdicts(at_entry(ss_limit=0xFFFF).boot(V1))["PVH-SS-FLAT"].severity is Severity.MUST
    assert verdicts(at_entry(ss_limit=0xFFFF).boot(V0))["PVH-SS-FLAT"].severity is Severity.SHOULD
    assert verdicts(at_draft_a_entry(ss_limit=0xFFFF).boot(DRAFT_A))["PVH-SS-FLAT"].severity is Severity.MUST


def test_named_entry_makes_the_note_irrelevant() -> None:
    assert verdicts(at_entry(eip=0x1234, found_by="--entry").boot(V1))["PVH-EIP-NOTE"].outcome is Outcome.NOT_APPLICABLE


# --- other protocols ----------------------------------------------------------------------------------------------

PROTOCOLS: list[tuple[str, Example]] = [(rule.id, rule.fails[0]) for rule in MACHINE_RULES if rule.names_protocol]


@pytest.mark.parametrize(("id", "example"), PROTOCOLS)
def test_another_protocol_is_named_and_nothing_is_judged_as_pvh(id: str, example: Example) -> None:
    boot = example.boot(V1)
    assert boot.other_protocol is not None
    assert outcomes(boot, Outcome.REMARK) == {id}
    assert outcomes(boot, Outcome.FAIL, Outcome.KNOWN, Outcome.UNKNOWN) == set()
    report = Report(boot, judge(boot))
    assert report.exit_code == 1
    assert boot.other_protocol.title in report.conclusion


def test_real_mode_with_a_setup_header_is_the_linux_16_bit_protocol() -> None:
    boot = at_entry(cr0=0x10, magic=0, ds=0x9000, memory={0x90202: b"HdrS"}).boot(V1)
    assert boot.other_protocol is not None
    assert boot.other_protocol.key == "linux16"


def test_xen_pv_is_named_by_what_its_pointer_is_mapped_to() -> None:
    (pv,) = (example for id, example in PROTOCOLS if id == "PVH-ALT-PV")
    assert pv.changes["rsi"] > 1 << 63
    for changes in ({"cr3": 0x98000}, {"rsi": pv.changes["rsi"] ^ 1 << 40}, {"efer": None}):
        assert Example({**pv.changes, **changes}).boot(V1).other_protocol is None
    # A stub that shows no control registers leaves only the pointer itself.
    blind = {"unobserved": ["cr0", "cr3", "cr4", "efer"], "magic": 0, "memory": {0x90000: b"xen-3.0-x86_64"}}
    other = at_entry(rsi=0x90000, **blind).boot(V1).other_protocol
    assert other is not None
    assert other.key == "xen-pv"


def test_multiboots_number_in_eax_is_no_proof() -> None:
    boot = at_entry(eax=0x2BADB002).boot(V1)  # as qboot enters
    assert boot.other_protocol is None
    assert outcomes(boot, Outcome.REMARK) == {"PVH-EAX-MB"}
    spoilt = at_entry(eax=0x2BADB002, magic=0x41414141).boot(V1)
    assert spoilt.other_protocol is None
    assert "PVH-EBX-MAGIC" in outcomes(spoilt, Outcome.FAIL)


@pytest.mark.parametrize("eax", [0x336EC578, 0x3BADB002])
def test_an_alternative_magic_of_the_thread_is_named(eax: int) -> None:
    boot = at_draft_a_entry(eax=eax).boot(DRAFT_A)
    (violation,) = verdicts(boot)["DA-EAX"].violations
    assert violation.found.startswith(f"{eax:#x}: ")
    assert at_draft_a_entry(eax=eax).boot(V1).other_protocol is not None


# --- known deviations ---------------------------------------------------------------------------------------------


def test_qemus_tr_limit_is_known_with_exactly_its_value() -> None:
    known = verdicts(at_entry(tr_limit=0xFFFF, **PVH_BIN).boot(V1))["PVH-TR-LIMIT"]
    assert known.outcome is Outcome.KNOWN
    assert known.deviation is not None
    assert verdicts(at_entry(tr_limit=0xFFFE, **PVH_BIN).boot(V1))["PVH-TR-LIMIT"].outcome is Outcome.FAIL


def test_a_known_deviation_fails_only_under_strict() -> None:
    boot = at_entry(tr_limit=0xFFFF, **PVH_BIN).boot(V1)
    assert Report(boot, judge(boot)).exit_code == 0
    strict = Report(boot, judge(boot), strict=True)
    assert strict.exit_code == 1
    assert "VIOLATES the PVH boot ABI, by --strict alone" in strict.conclusion


@pytest.mark.parametrize(
    "changes",
    [
        {"vmm": Vmm("example", "7.2.22")},
        {"vmm": Vmm("QEMU", "3.1")},
        {"gdt": DescriptorTable(0x500, 0x27)},
        {"found_by": "--entry"},
        {"found_by": "here"},
    ],
    ids=["other VMM", "before pvh.bin", "other firmware", "guest's entry", "not an entry"],
)
def test_nobody_else_is_excused(changes: dict[str, object]) -> None:
    boot = at_entry(**{**PVH_BIN, "tr_limit": 0xFFFF, **changes}).boot(V1)
    assert verdicts(boot)["PVH-TR-LIMIT"].outcome is Outcome.FAIL


def test_without_a_version_it_is_not_decided_whether_it_is_excused() -> None:
    """A log of the guest `probe` tells which VMM it was, and not which version."""
    of_some_version = at_entry(**{**PVH_BIN, "tr_limit": 0xFFFF, "vmm": Vmm("QEMU", None)}).boot(V1)
    verdict = verdicts(of_some_version)["PVH-TR-LIMIT"]
    assert verdict.outcome is Outcome.UNKNOWN
    assert "0xffff" in verdict.reason
    assert "QEMU-TR-LIMIT" in verdict.reason
    never_on_record = at_entry(**{**PVH_BIN, "tr_limit": 0x66, "vmm": Vmm("QEMU", None)}).boot(V1)
    assert verdicts(never_on_record)["PVH-TR-LIMIT"].outcome is Outcome.FAIL


def test_a_recorded_deviation_that_does_not_occur_is_said() -> None:
    verdict = verdicts(at_entry(tr_limit=0x67, **PVH_BIN).boot(V1))["PVH-TR-LIMIT"]
    assert verdict.outcome is Outcome.PASS
    assert "QEMU-TR-LIMIT" in verdict.reason


def test_qboots_garbage_is_known() -> None:
    maps = [MemoryMapEntry(0, 0x9FC00, 1, 0), MemoryMapEntry(0x100000, 0x1FF00000, 1, 0), MemoryMapEntry(0, 0, 0, 0)]
    boot = at_entry(tr_limit=0xFFFF, memory_map=maps, modules=[ModuleEntry(0x1F000000, 0x1000, 0, 0x965000000)], **QBOOT).boot(V1)
    assert boot.firmware is not None
    assert boot.firmware.name == "qboot"
    assert outcomes(boot, Outcome.KNOWN) == {"PVH-TR-LIMIT", "SI-MM-TYPE", "SI-MM-SIZE0", "SI-MOD-RESERVED"}


def test_a_newer_version_is_told_which_record_almost_fits() -> None:
    maps = [MemoryMapEntry(0, 0x9FC00, 1, 0), MemoryMapEntry(0x100000, 0x1FF00000, 1, 0), MemoryMapEntry(0, 0, 0, 0)]
    found = verdicts(at_entry(memory_map=maps, **{**QBOOT, "vmm": Vmm("QEMU", "12.0.1")}).boot(V1))["SI-MM-SIZE0"]
    assert found.outcome is not Outcome.KNOWN
    assert found.reason == "QBOOT-MAP-END-SIZE has this on record for QEMU 7.2 to 11.1; QEMU 12.0.1 was not measured"


@pytest.mark.parametrize("version", ["7.2.22", "10.0.13", "99.0", None])
def test_what_qboot_never_writes_is_known_whatever_it_holds(version: str | None) -> None:
    """And it is shown. Of the fields that qboot writes, and of other firmwares, it excuses nothing."""
    garbage = [ModuleEntry(0x1F000000, 0x1000, 0xB0000000, 0x1234567)]
    found = verdicts(at_entry(modules=garbage, **{**QBOOT, "vmm": Vmm("QEMU", version)}).boot(V1))
    for rule, value in (("SI-MOD-CMDLINE", "0xb0000000: "), ("SI-MOD-RESERVED", "0x1234567")):
        assert found[rule].outcome is Outcome.KNOWN
        assert found[rule].violations[0].found.startswith(value)
    for changes in (PVH_BIN, {**QBOOT, "vmm": Vmm("example", version)}):
        others = verdicts(at_entry(modules=garbage, **changes).boot(V1))
        assert others["SI-MOD-CMDLINE"].outcome is Outcome.FAIL
        assert others["SI-MOD-RESERVED"].outcome is Outcome.REMARK
    written = verdicts(at_entry(modules=[ModuleEntry(0xF0000, 0, 0, 0)], **QBOOT).boot(V1))
    assert written["SI-MOD-SIZE"].outcome is Outcome.FAIL


# microvm's map under SeaBIOS: the last page of low RAM holds its ACPI tables, and is reserved.
TOP = 0x10000000
MICROVM_MAP = [
    MemoryMapEntry(0, 0x9FC00, 1, 0),
    MemoryMapEntry(0x100000, TOP - 0x101000, 1, 0),
    MemoryMapEntry(TOP - 0x1000, 0x1000, 2, 0),
]


def on_microvm(end: int, **changes: object) -> Example:
    start = (end - 0x2000) & ~0xFFF
    return at_entry(**{**PVH_BIN, "memory_map": MICROVM_MAP, "modules": [ModuleEntry(start, end - start, 0, 0)], **changes})


@pytest.mark.parametrize("end", [TOP - 0xFFF, TOP - 1, TOP])
def test_a_ramdisk_that_reaches_microvms_tables_is_known(end: int) -> None:
    verdict = verdicts(on_microvm(end).boot(V1))["SI-MOD-RAM"]
    assert verdict.deviation is not None
    assert verdict.deviation.key == "MICROVM-INITRD-RESERVED"
    assert "which ends in the 0x1000 reserved bytes" in verdict.violations[0].found
    assert verdicts(on_microvm(TOP - 0x1000).boot(V1))["SI-MOD-RAM"].outcome is Outcome.PASS


@pytest.mark.parametrize(
    "changes",
    [
        {"modules": [ModuleEntry(TOP - 0x1000, 0x10, 0, 0)]},  # wholly in the reserved page
        {"modules": [ModuleEntry(TOP - 0x3000, 0x3001, 0, 0)]},  # beyond it
        {"modules": [ModuleEntry(0x9F000, 0x1000, 0, 0)]},  # behind RAM that nothing reserved follows
        {"memory_map": [*MICROVM_MAP[:2], MemoryMapEntry(TOP - 0x1000, 0x2000, 2, 0)]},  # another size than was seen
        {"memory_map": [*MICROVM_MAP[:2], MemoryMapEntry(TOP - 0x1000, 0x1000, 3, 0)]},  # another type
        {"vmm": Vmm("QEMU", "11.2.0")},
        {"vmm": Vmm("QEMU", "7.1.0")},
    ],
    ids=["wholly reserved", "beyond", "no reserved range", "two pages", "ACPI type", "later QEMU", "earlier QEMU"],
)
def test_no_other_ramdisk_outside_of_ram_is_excused(changes: dict[str, object]) -> None:
    assert verdicts(on_microvm(TOP - 1, **changes).boot(V1))["SI-MOD-RAM"].outcome is Outcome.FAIL


def test_root_tables_under_such_a_ramdisk_are_known_and_no_others() -> None:
    def spoilt(table: int, **changes: object) -> Verdict:
        rsdp = RsdpV1(b"RSD PTR ", 0, b"PVHDBG", 0, table).encode()
        rsdp = summed(rsdp, RsdpV1.offset_of("checksum"))
        memory = {**PVH_BIN_ROM, table: b"Z" * 36}
        boot = on_microvm(TOP - 1, rsdp=rsdp, memory=memory, **changes).boot(V1)
        return verdicts(boot)["SI-RSDP-TABLES"]

    under = spoilt(TOP - 0x52)
    assert under.deviation is not None
    assert under.deviation.key == "MICROVM-INITRD-OVER-XSDT"
    assert "under a module which ends in" in under.violations[0].found
    assert spoilt(TOP - 0x10000).outcome is Outcome.FAIL  # no module is there
    for changes in ({"vmm": Vmm("QEMU", "11.2.0")}, {"modules": [ModuleEntry(TOP - 0x800, 0x7FF, 0, 0)]}):
        assert spoilt(TOP - 0x52, **changes).outcome is Outcome.FAIL
    bare = spoilt(TOP - 0x52, memmap_entries=0, memmap_paddr=0)  # how the module came there is not known
    assert bare.outcome is Outcome.FAIL
    assert bare.violations[0].found.endswith("under a module")


# --- hostile values -----------------------------------------------------------------------------------------------

u32 = st.one_of(st.integers(0, 0xFFFFFFFF), st.sampled_from([0, 1, 0x6000, 0x7000, 0xFFFFFFFF, 0x80000000]))
u64 = st.one_of(st.integers(0, (1 << 64) - 1), st.sampled_from([0, 0x6000, 0x7000, 1 << 32, (1 << 64) - 1]))


@settings(deadline=None, max_examples=examples(150))
@given(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("magic", "version", "flags", "nr_modules", "memmap_entries", "reserved"), u32),
            **dict.fromkeys(("modlist_paddr", "cmdline_paddr", "rsdp_paddr", "memmap_paddr"), u64),
            **dict.fromkeys(("eax", "ebx", "esi", "cr0", "cr4", "eflags"), u32),
            **dict.fromkeys(("cs_base", "tr_limit", "es_flags"), u32),
        },
    ),
    st.sampled_from([DRAFT_A, V0, V1]),
    st.booleans(),
)
def test_no_hand_off_raises_or_passes_what_it_cannot_see(changes: dict[str, int], revision: object, backed: bool) -> None:
    example = at_entry(**changes) if backed else at_entry(**changes, backing=None)
    boot = example.boot(revision)  # type: ignore[arg-type]
    for verdict in judge(boot):
        assert verdict.outcome is not Outcome.UNKNOWN or verdict.reason
        assert (verdict.outcome in (Outcome.FAIL, Outcome.KNOWN, Outcome.REMARK)) == bool(verdict.violations)


def test_revision_objects_are_what_rules_are_judged_by() -> None:
    boot = dataclasses.replace(at_entry().boot(V1), revision=V0)
    assert verdicts(boot)["SI-MM-PRESENT"].outcome is Outcome.NOT_APPLICABLE
