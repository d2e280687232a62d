"""The page, from boots that are described and not made."""

import random
import re
from collections.abc import Mapping
from typing import Any

import pytest

from conformance import cells, table
from conformance.boots import Boot, Case, Setup
from conformance.matrix import Found
from pvhdbg.model import DescriptorTable, Vmm
from pvhdbg.rules.catalogue import MACHINE_RULES, judge
from pvhdbg.rules.declare import Outcome
from pvhdbg.rules.examples import at_entry
from pvhdbg.rules.file_examples import a_kernel
from pvhdbg.rules.files import judge_file
from pvhdbg.spec.revisions import V1
from pvhdbg.spec.start_info import ModuleEntry

NEWER, OLDER = Vmm("QEMU", "10.0.2"), Vmm("QEMU", "7.2.22")
Q35 = Setup("qemu", "q35", firmware="qboot")
QBOOT: dict[str, Any] = {"gdt": DescriptorTable(0xFFFFFFC1, 0x17), "eax": 0x2BADB002, "tr_limit": 0xFFFF}
GARBAGE = [ModuleEntry(0x1F000000, 0x1000, 0, 0x965000000)]


def booted(case: Case, vmm: Vmm = OLDER, **changes: Any) -> Boot:
    state = at_entry(vmm=vmm, **changes).boot(V1)
    protocol = state.other_protocol.title if state.other_protocol else "PVH"
    firmware = state.firmware.name if state.firmware else None
    return Boot(case, vmm, firmware, protocol, judge(state), judge_file(a_kernel().kernel()))


def case(setup: Setup = Q35, guest: str = "hello", memory: str = "256M", module: int = 0) -> Case:
    return Case(setup, guest, memory, module)


def line(page: str, *parts: str) -> list[str]:
    """The cells of the first table line that holds all the parts."""
    found = next(line for line in page.splitlines() if line.startswith("|") and all(part in line for part in parts))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", found)[1:-1]]


def summary(page: str, rule: str, *parts: str) -> str:
    """What the table of deviations or remarks says of a rule on one line."""
    lines = page.splitlines()
    head = next(index for index, one in enumerate(lines) if one.startswith("| VMM |") and f"[{rule}]" in one)
    names = line(lines[head], "VMM")
    return line("\n".join(lines[head + 2 :]), *parts)[next(i for i, name in enumerate(names) if f"[{rule}]" in name)]


def test_a_failure_is_bold_and_a_recorded_deviation_links_to_its_record() -> None:
    page = table.render([booted(case(), **QBOOT, modules=GARBAGE, cr4=0x20)])
    assert summary(page, "PVH-CR4-ZERO", "QEMU 7.2.22") == "**FAIL**"
    assert summary(page, "PVH-TR-LIMIT", "QEMU 7.2.22") == "[KNOWN](rules.md#qemu-tr-limit)"
    assert summary(page, "SI-MOD-RESERVED", "QEMU 7.2.22") == "[KNOWN](rules.md#qboot-module-reserved)"
    assert summary(page, "PVH-EAX-MB", "QEMU 7.2.22") == "remark"
    assert line(page, "`tr.limit: 0xffff`")[:4] == ["QEMU 7.2.22", "qboot", "`q35`", "[QEMU-TR-LIMIT](rules.md#qemu-tr-limit)"]
    assert line(page, "[PVH-CR4-ZERO](rules.md#pvh-cr4-zero) | MUST")[2] == "**FAIL**"
    assert line(page, "[PVH-CR0-PE](rules.md#pvh-cr0-pe) | MUST")[2] == "pass"


def test_a_hand_off_without_a_deviation_is_said_to_be_one() -> None:
    page = table.render([booted(case())])
    assert "## Deviations" in page
    assert re.search(r"## Remarks\n\n.*\n\nNone\.\n", page)
    assert "**FAIL** |" not in page
    assert table.unrecorded([booted(case())]) == []


def test_every_machine_rule_is_listed_for_every_vmm() -> None:
    page = table.render([booted(case()), booted(case(), NEWER)])
    assert table.programs(page) == {"QEMU 7.2.22", "QEMU 10.0.2"}
    for rule in MACHINE_RULES:
        assert page.count(f"| [{rule.id}](rules.md#{rule.id.lower()}) | {rule.severity.value} |") == 2
    assert page.index("All rules: QEMU 7.2.22") < page.index("All rules: QEMU 10.0.2")


def test_the_page_does_not_depend_on_the_order_in_which_boots_ended() -> None:
    setups = [Q35, Setup("qemu", "pc", "qboot.rom"), Setup("qemu", "microvm")]
    cases = [
        case(setup, guest, memory, module)
        for setup in setups
        for guest in ("a", "b")
        for memory in ("5G", "256M")
        for module in (0, 9)
    ]
    boots = [booted(one, **(QBOOT if index % 3 else {})) for index, one in enumerate(cases)]
    boots.append(Boot(cases[0], failure="it burnt"))
    page = table.render(boots)
    for seed in range(5):
        shuffled = random.Random(seed).sample(boots, len(boots))
        assert table.render(shuffled) == page


CASES = [
    case(guest=guest, memory=memory, module=module)
    for guest in ("a", "b")
    for memory in ("256M", "3G", "5G")
    for module in (0, 1, 9)
]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({}, ""),
        ({"module": {0}}, "without a module"),
        ({"module": {1, 9}}, "with a module"),
        ({"module": {9}}, "with a module of 9 bytes"),
        ({"module": {0, 9}}, "without a module or with a module of 9 bytes"),
        ({"memory": {"5G", "3G"}}, "at 3G and 5G"),
        ({"guest": {"b"}}, "for `b`"),
        ({"module": {9}, "memory": {"5G"}}, "with a module of 9 bytes, at 5G"),
    ],
)
def test_when_it_happens_is_said_in_words(wanted: Mapping[str, set[Any]], words: str) -> None:
    some = [one for one in CASES if all(getattr(one, name) in values for name, values in wanted.items())]
    assert cells.condition(some, CASES) == words


def test_what_has_no_pattern_is_counted() -> None:
    assert cells.condition([CASES[0], CASES[-1]], CASES) == "in 2 of 18 boots"


def test_boots_to_which_a_rule_does_not_apply_are_no_condition() -> None:
    with_module = booted(case(module=4096), **QBOOT, modules=GARBAGE)
    without = booted(case(), **QBOOT, modules=[])
    assert summary(table.render([with_module, without]), "SI-MOD-RESERVED", "QEMU") == "[KNOWN](rules.md#qboot-module-reserved)"
    reserved = booted(case(memory="3G", module=4096), **QBOOT)
    page = table.render([with_module, without, reserved])
    assert summary(page, "SI-MOD-RESERVED", "QEMU") == "[KNOWN](rules.md#qboot-module-reserved) at 256M"


def test_another_protocol_is_named_and_not_judged() -> None:
    other = booted(case(guest="other"), eax=0x2BADB002, magic=0, ebx=0x9500, memory={0x9500: (0x4F).to_bytes(4, "little")})
    if other.protocol == "PVH":
        pytest.fail("the example is not a multiboot entry any more")
    page = table.render([other, booted(case())])
    assert line(page, "`other`")[1] == other.protocol
    assert line(page, "`hello`", "PVH")[1] == "PVH"
    assert "**FAIL** |" not in page
    assert table.unrecorded([other]) == []


def test_a_guests_file_is_judged_once_and_apart() -> None:
    boot = booted(case())
    bad = Boot(boot.case, boot.vmm, boot.firmware, boot.protocol, boot.verdicts, judge_file(a_kernel(notes=()).kernel()))
    page = table.render([bad])
    assert line(page, "`hello`", "ELF-NOTE-18")[2] == "[ELF-NOTE-18](rules.md#elf-note-18) **FAIL**"
    assert table.unrecorded([bad]) == []  # it is the guest's, not the VMM's
    assert line(table.render([boot]), "`hello`", "PVH")[2] == "passes"


def test_what_failed_without_a_record_is_listed_by_rule() -> None:
    boots = [booted(case(), cr4=0x20), booted(case(memory="3G"), cr4=0x20, tr_limit=0xFFFE), booted(case(), **QBOOT)]
    assert table.unrecorded(boots) == ["PVH-CR4-ZERO", "PVH-TR-LIMIT"]


def test_boots_and_machines_without_a_hand_off_are_listed() -> None:
    page = table.render(
        [booted(case()), Boot(case(guest="sick", module=7), failure="it did not | get there\x1b[31m")],
        [Found("7.2.22", (Q35,), (Setup("qemu", "microvm", "bios-256k.bin"),))],
    )
    assert "- QEMU 7.2.22: `-M microvm -bios bios-256k.bin`" in page
    assert "- sick on -M q35, 256M, initrd of 7 bytes: it did not \\| get there\\\\x1b\\[31m" in page
    assert "`sick`" not in page


def test_nothing_from_outside_breaks_the_page() -> None:
    """A version is the VMM's own word, a value the guest's."""
    hostile = Vmm("QEMU", "7.2|<b>\x1b[2J\n# x `y`")
    page = table.render([booted(case(), hostile, cr4=0x20)])
    assert "\x1b" not in page
    assert "\n# x" not in page
    assert "<b>" not in page
    for one in page.split("\n\n"):
        assert len({len(re.split(r"(?<!\\)\|", row)) for row in one.splitlines() if row.startswith("|")}) <= 1, one


def test_values_are_cut_and_counted() -> None:
    boots = [booted(case(module=index), cr4=index + 1) for index in range(6)]
    page = table.render(boots)
    (found,) = [one for one in page.splitlines() if "and 2 more" in one]
    assert found.count("0x") == 4
    assert "<br>" in found
    text = "".join(one.found for boot in boots for v in boot.verdicts if v.outcome is Outcome.FAIL for one in v.violations)
    assert "0x6" in text
    assert "0x6" not in found
