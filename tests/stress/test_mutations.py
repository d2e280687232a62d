"""Each mutation on real machines: the guest that relies on what it changes dies, and the changed hand-off conforms by our own rules."""

import os
from pathlib import Path

import pytest

from pvhdbg.decode.boot_state import BootState
from pvhdbg.guests import path as guest
from pvhdbg.machine.options import LaunchOptions, SubjectOptions
from pvhdbg.model import Vmm
from pvhdbg.rules.catalogue import judge
from pvhdbg.rules.declare import Outcome, Severity
from pvhdbg.stress.catalogue import MUTATIONS, find
from pvhdbg.stress.mutation import Mutation
from pvhdbg.stress.trial import Fate, StressWish, Trial, boot_with, opened_with
from pvhdbg.vmm.qemu import version_of

FRAGILE = str(guest("fragile"))
IDS = [one.id for one in MUTATIONS]
# How many mutations further the one is that must not kill: all numbers up to len(IDS) together are the whole matrix.
STRIDE = int(os.environ.get("STRESS_STRIDE", "11"))
# These take away what chooses the reliance, or need a module: the reliance is then named in the module.
APPEND = {"cmdline-absent": None, "cmdline-empty": "words"}
WITH_MODULE = {*APPEND, "module-cmdline", "module-cmdline-absent", "module-reserved"}
BEFORE = {"module-cmdline-absent": ("module-cmdline",)}  # no QEMU gives a module a command line
CPU = {"cpu-no-x2apic": "qemu64,+x2apic"}  # which no QEMU has by default under TCG, and none before 9.0 has
# A tick of the timer may come between the firmware's cli and the guest's look, where the machine is loaded.
BY_CHANCE = {"interrupt-pending": 4}


def about(relies: str, folder: Path, machine: str = "pc", module: bool = False) -> SubjectOptions:
    """`fragile` on a machine where the mutation of that name can be made, relying on what it changes."""
    launch = LaunchOptions(append=APPEND.get(relies, f"relies={relies}"), machine=machine, memory="128M", cpu=CPU.get(relies))
    if module or relies in WITH_MODULE:
        path = folder / "module"
        path.write_bytes(f"relies={relies}".encode() + b"\0")
        launch = launch._replace(initrd=str(path))
    return SubjectOptions(FRAGILE, launch=launch)


def tried(mutations: list[Mutation], relies: str, folder: Path) -> Trial:
    mutations = [*map(find, BEFORE.get(relies, ())), *mutations]
    return boot_with(mutations, StressWish(about(relies, folder), "survived", 20, frozenset(one.id for one in mutations)))


def survivor(other: Mutation, relies: str, folder: Path) -> Fate:
    """What comes of a mutation that must not kill; of the last boot, where chance may."""
    for _ in range(BY_CHANCE.get(relies, 1)):
        fate = tried([other], relies, folder).fate
        if fate is not Fate.DIES:
            break
    return fate


@pytest.mark.boot
@pytest.mark.parametrize("id", IDS)
def test_the_guest_that_relies_on_it_dies_of_it_alone(id: str, tmp_path: Path) -> None:
    """It survives another mutation, or where this machine cannot have that one, no mutation."""
    if id == "cpu-no-x2apic" and not has_x2apic(tmp_path):
        return
    other = MUTATIONS[(IDS.index(id) + STRIDE) % len(IDS)]
    fate = survivor(other, id, tmp_path)
    assert fate is Fate.SURVIVES or (fate is Fate.NOT_TRIED and tried([], id, tmp_path).fate is Fate.SURVIVES)
    trial = tried([find(id)], id, tmp_path)
    assert (trial.fate, trial.ids) == (Fate.DIES, (*BEFORE.get(id, ()), id)), trial.cause
    assert "triple fault" in trial.cause


def has_x2apic(folder: Path) -> bool:
    """Whether this QEMU's TCG has an x2APIC: the unchanged guest then survives. QEMU before 9.0 has none, and reports that."""
    fate = tried([], "cpu-no-x2apic", folder).fate
    assert fate is Fate.SURVIVES or Vmm("QEMU", version_of(None)).release() < (9,)
    return fate is Fate.SURVIVES


@pytest.mark.boot
def test_what_a_machine_has_or_lacks_already_is_not_tried(tmp_path: Path) -> None:
    """Where the user did not name it: an ELF64 may be 64-bit code, TCG's CPUs have no x2APIC, and pvh.bin's modules no command line."""
    for id, words in (
        ("cpu-no-pae", "64-bit code needs PAE"),
        ("cpu-no-x2apic", "--accel kvm"),
        ("module-cmdline-absent", "has one"),
    ):
        trial = boot_with([find(id)], StressWish(about("module-cmdline", tmp_path), "survived", 20))
        assert trial.fate is Fate.NOT_TRIED
        assert words in trial.cause


@pytest.mark.boot
@pytest.mark.parametrize("machine", ["q35", "microvm"])
@pytest.mark.parametrize("first", range(0, len(IDS), 6))
def test_the_changed_hand_off_conforms(first: int, machine: str, tmp_path: Path) -> None:
    """Generator against checker. `opened_with` refuses what a mutation adds, on pc in the test above; here the rules are asked again."""
    for one in MUTATIONS[first : first + 6]:
        options = about("nothing", tmp_path, machine, module=True)
        if one.id == "cmdline-empty":
            options = options._replace(launch=options.launch._replace(append="words"))
        with opened_with([*map(find, BEFORE.get(one.id, ())), one], options, asked=True) as opened:
            assert wrong(opened.boot, one) <= {"PVH-TR-LIMIT"}, one.id  # QEMU's own


def wrong(boot: BootState, mutation: Mutation) -> set[str]:
    """The rules that the changed hand-off violates, by the revision that the mutation conforms to."""
    assert boot.revision.name == mutation.spec
    return {one.rule.id for one in judge(boot) if one.outcome is Outcome.FAIL and one.severity is Severity.MUST}


def test_each_is_declared_whole() -> None:
    assert len(set(IDS)) == len(IDS)
    for one in MUTATIONS:
        assert one.title[0].islower() or one.title.startswith("RAM")
        assert one.clause.words
