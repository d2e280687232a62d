"""`pvhdbg boot diff`: each change of a configuration is named by its cause, on Debian's kernel and on a guest."""

import re
from pathlib import Path

import pytest

from pvhdbg.driver.compared_boots import Booting, Side, comparable
from pvhdbg.guests import path as guest
from pvhdbg.machine.options import LaunchOptions, SubjectOptions
from pvhdbg.report import boot_text
from pvhdbg.report.style import PLAIN as PLAIN_STYLE
from pvhdbg.tracing.story import parting
from tests.support.cli_runner import HELLO, Cli, Machine

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("qemu")]

LONG_MODE = str(guest("long_mode"))
CRASHERS = str(guest("crashers"))
PLAIN = "console=ttyS0"


BOOTING = Booting("acpi_boot_table_init", 60, lambda _: None)  # behind all that is changed below


@pytest.fixture(scope="module")
def plain(vmlinux: Path) -> Side:
    """The unchanged boot."""
    return BOOTING.boot(SubjectOptions(str(vmlinux), launch=LaunchOptions(PLAIN)))


@pytest.mark.parametrize(
    ("launch", "inputs", "a", "b"),
    [
        (LaunchOptions(PLAIN, cpu="qemu64"), "-cpu qemu64", "", ""),  # the default
        (LaunchOptions(PLAIN, initrd="initrd"), "-initrd", "acpi_table_upgrade", "pfn_range_is_mapped"),
        # None: what comes next without the cause depends on the kernel's version, what a CPU and a machine have on QEMU's.
        (LaunchOptions("consol=ttyS0"), "-append consol=ttyS0", "param_setup_earlycon", None),
        (LaunchOptions(f"{PLAIN} nosmp"), "nosmp", None, "nosmp"),
        (LaunchOptions(f"{PLAIN} quiet"), "quiet", None, "quiet_kernel"),
        (LaunchOptions(PLAIN, cpu="max"), "-cpu max", None, None),
        (LaunchOptions(PLAIN, machine="microvm"), "-machine microvm", None, None),
    ],
)
def test_the_first_divergence_names_the_cause(
    vmlinux: Path, plain: Side, tmp_path: Path, launch: LaunchOptions, inputs: str, a: str | None, b: str | None
) -> None:
    (tmp_path / "initrd").write_bytes(b"070701" + bytes(2000))
    launch = launch._replace(initrd=None if launch.initrd is None else str(tmp_path / launch.initrd))
    other = BOOTING.boot(SubjectOptions(str(vmlinux), launch=launch))
    text = boot_text.difference(plain.info, other.info, parting(plain.functions, other.functions), None, PLAIN_STYLE)
    first, *lines = text.splitlines()
    assert first.startswith("arguments: ")
    assert inputs in first.split(" | ")[1]
    sides = {side: re.findall(rf"^  {side} +[\d,]+  (\S+)", text, re.MULTILINE) for side in "AB"}
    for wanted, names in zip((a, b), sides.values(), strict=True):
        assert wanted is None or (names[0] if names else "") == wanted
    if a != "":
        assert [line.split(":")[0] for line in lines[-3:]] == ["only in A", "only in B", "in another order"]
    else:
        assert "the boots are the same" in text


def test_boots_that_the_time_limit_cut_are_compared_up_to_there(vmlinux: Path) -> None:
    """Where it cuts them is up to the host."""
    about = SubjectOptions(str(vmlinux), launch=LaunchOptions(PLAIN))
    one, other = Booting(None, 1, lambda _: None).both(about, about)
    assert one.cut is not None
    assert other.cut is not None
    one, other, cut = comparable(one, other)
    found = parting(one.functions, other.functions)
    assert found.identical
    assert f"compared up to instruction {cut:,}, where a recording was cut: A: the time was up; B: the time was up" in (
        boot_text.difference(one.info, other.info, found, cut, PLAIN_STYLE)
    )


def test_which_option_makes_the_difference(cli: Cli) -> None:
    """Four differences, of which one leads to another death."""
    both = ("--append", "quiet crash=hlt one two")
    ran = cli("boot", "diff", CRASHERS, CRASHERS, *both, "--b-append", "quiet three crash=wrmsr one 2", "--b-memory", "1G",
              "--which-option").ok(1)  # fmt: skip
    assert re.search(
        r"^what makes them part there: --append: crash=wrmsr instead of crash=hlt \(3 more boots\)$", ran.out, re.MULTILINE
    )
    assert re.search(r"^  A .* hlt$", ran.out, re.MULTILINE)
    assert re.search(r"^  B .* wrmsr$", ran.out, re.MULTILINE)


def test_the_same_twice(cli: Cli) -> None:
    ran = cli("boot", "diff", LONG_MODE, LONG_MODE, "--which-option").ok(0)
    assert ran.out.startswith("the boots are the same: 14 functions")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((HELLO, "nosuch"), "nosuch"),
        ((HELLO, HELLO, "--accel", "kvm"), "cannot observe code that KVM executes"),
        ((HELLO, HELLO, "--until", "nosuch"), "no symbol nosuch"),
        (("saved", "saved", "--memory", "1G"), "--memory cannot be used with saved"),
        (("saved", "saved", "--b-memory", "1G"), "--b-memory cannot be used with saved"),
        (("saved", HELLO, "--which-option"), "--which-option cannot be used with saved"),
    ],
)
def test_what_cannot_be_compared(cli: Cli, words: tuple[str, ...], said: str) -> None:
    cli.file("saved", b'{"schema": "pvhdbg/boot/1"')
    cli("boot", "diff", *words).complaint(2, said)


def test_a_stub_is_not_compared(cli: Cli, machine: object) -> None:
    theirs: Machine = machine(kernel=HELLO)  # type: ignore[operator]
    cli("boot", "diff", HELLO, theirs.socket).complaint(2, "name one of those")
