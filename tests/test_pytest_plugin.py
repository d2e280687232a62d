"""The pytest plugin as a stranger uses it: a project of its own, installed by its entry point, on real kernels."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.cli_runner import HELLO, LONGEST, ROOT, TRIPLE_FAULT, Cli, kernel_elf

# Python 3.10 has it from pytest's own dependencies.
tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


class Project:
    """A folder with tests and an ini file, and pvhdbg's entry points as pip writes them."""

    def __init__(self, cli: Cli) -> None:
        self.cli, self.folder = cli, cli.folder / "project"
        self.folder.mkdir()
        points = tomllib.loads((Path(ROOT) / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
        installed = cli.folder / "site" / "pvhdbg-0.dist-info"
        installed.mkdir(parents=True)
        (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: pvhdbg\nVersion: 0\n")
        (installed / "entry_points.txt").write_text("[pytest11]\n" + "".join(f"{name} = {at}\n" for name, at in points.items()))
        self.ini("")

    def ini(self, words: str) -> None:
        (self.folder / "pytest.ini").write_text(f"[pytest]\n{words}\n")

    def test(self, code: str) -> None:
        (self.folder / "test_boot.py").write_text(textwrap.dedent(code))

    def run(self, *words: str | Path) -> tuple[int, dict[str, int], str]:
        """pytest's exit code, its counts, and what it printed."""
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-W",
            "error",
            "--color=no",
            "--basetemp=../base",
            *map(str, words),
        ]
        path = os.pathsep.join([str(self.cli.folder / "site"), str(ROOT)])
        env = {name: value for name, value in self.cli.env.items() if not name.startswith("PYTEST")}
        ran = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=LONGEST, check=False, env={**env, "PYTHONPATH": path}
        )
        last = ran.stdout.rstrip("\n").rsplit("\n", 1)[-1].strip("= ")
        counts = {
            noun.rstrip(","): int(number) for number, noun in zip(last.split(), last.split()[1:], strict=False) if number.isdigit()
        }
        return ran.returncode, counts, ran.stdout + ran.stderr


@pytest.fixture
def project(cli: Cli) -> Project:
    return Project(cli)


@pytest.mark.boot
def test_a_real_kernel_in_three_lines_and_in_more(project: Project, vmlinux: Path) -> None:
    project.test(
        """
        import pytest

        def test_it_boots(pvh_boot):
            pvh_boot().assert_conforms()

        def test_more(pvh_boot, tmp_path, pvh_snapshot):
            initrd = tmp_path / "initrd"
            initrd.write_bytes(b"070701" + bytes(5000))
            boot = pvh_boot(append="console=ttyS0 quiet", initrd=initrd, memory="300M", machine="q35")
            info = boot.entry.start_info
            assert info.command_line == "console=ttyS0 quiet"
            assert [module.kind for module in info.modules] == ["cpio (newc)"]
            assert boot.registers["rip"] == boot.entry.snapshot.kernel.entry
            assert boot.read_memory(boot.registers["ebx"], 4) == (0x336EC578).to_bytes(4, "little")
            assert sum(one.size for one in info.memory_map if one.type == 1) > 290 << 20
            assert {verdict.rule.id.split("-")[0] for verdict in boot.verdicts} == {"ELF", "PVH", "SI", "DA"}
            boot.assert_conforms(spec="v0")
            boot.assert_conforms(allow=["pvh-tr-limit"], strict=True)
            with pytest.raises(AssertionError, match="PVH-TR-LIMIT"):
                boot.assert_conforms(strict=True)
            boot.snapshot(tmp_path / "boot.pvhsnap")
            again = pvh_snapshot(tmp_path / "boot.pvhsnap")
            assert again.entry.start_info == info
            assert "console=ttyS0 quiet" in again.entry.snapshot.vmm.command
            assert len(again.entry.snapshot.memory.read(boot.registers["rip"] & -4096, 8192)) == 8192
            again.assert_conforms()

        def test_for_a_while(pvh_boot):
            with pvh_boot() as boot:
                assert boot.qemu.poll() is None
            assert boot.qemu.poll() is not None

        def test_running_on(pvh_boot):
            boot = pvh_boot(append="console=ttyS0")
            assert boot.until("start_kernel", timeout=30)["rip"] >> 32 == 0xFFFFFFFF
            assert "4-level paging, start_kernel+0x0" in boot.where()
            boot.serial.expect(r"Linux version \\d", timeout=30)

        def test_the_way_there(pvh_boot, pvh_qemu_versions):
            boot = pvh_boot()
            boot.until_mode("long", timeout=30)
            assert [one.name for one in boot.milestones][:2] == ["entry", "lgdt"]
            assert [name.count("qemu") for name in pvh_qemu_versions] == [1]
            assert boot.qemu.version in pvh_qemu_versions.values()
        """
    )
    code, counts, out = project.run(f"--pvh-kernel={vmlinux}")
    assert (code, counts["passed"]) == (0, 5), out
    assert "PASS" not in out


@pytest.mark.boot
def test_running_on(project: Project) -> None:
    project.cli.file("dies", kernel_elf(TRIPLE_FAULT))
    project.test(
        """
        import pytest
        from pvhdbg.errors import GuestDied, BadInput

        def test_symbols_and_serial(pvh_boot):
            boot = pvh_boot()
            assert boot.symbol("pvh_start") == boot.registers["rip"] == 0x100000
            assert boot.until("print", timeout=10)["rip"] == boot.symbol("print")
            assert "print+0x0" in boot.where()
            assert boot.serial.text == ""
            assert boot.serial.expect(r"hello from (\\w+)", timeout=10)[1] == "PVH"
            assert "hello from PVH" in boot.serial.text
            with pytest.raises(GuestDied, match="halt.*in 32-bit protected mode"):
                boot.serial.expect("never written", timeout=20)
            assert boot.death.cause == "no exit device"
            with pytest.raises(BadInput, match="no symbol"):
                boot.until("start_kernel")

        def test_a_place_that_is_never_reached(pvh_boot):
            boot = pvh_boot()
            with pytest.raises(GuestDied, match="halt"):
                boot.until(0x100021, timeout=20)
            assert boot.registers["rip"]

        def test_a_death_is_told_at_once(pvh_boot):
            import time
            boot = pvh_boot("../dies")
            since = time.monotonic()
            with pytest.raises(GuestDied, match="0x100007"):
                boot.until(0x100010, timeout=30)
            assert time.monotonic() - since < 5

        def test_a_death_while_waiting_for_words(pvh_boot):
            with pytest.raises(GuestDied):
                pvh_boot("../dies").serial.expect("never", timeout=30)
        """
    )
    code, counts, out = project.run(f"--pvh-kernel={HELLO}")
    assert (code, counts["passed"]) == (0, 4), out


@pytest.mark.boot
def test_a_failure_shows_the_verdicts_and_keeps_what_a_colleague_needs(project: Project) -> None:
    project.test(
        """
        def test_strict(pvh_boot):
            boot = pvh_boot(append="one")
            boot.serial.expect("PVH")
            boot.assert_conforms(strict=True)

        def test_plain(pvh_boot):
            assert pvh_boot(append="console=ttyS0").entry.start_info.command_line == "console=ttyS1"

        def test_no_kernel(pvh_boot):
            pvh_boot("/nonexistent/vmlinux")

        def test_wrong_allowance(pvh_boot):
            pvh_boot().assert_conforms(allow=["PVH-TR-LIMITS"])

        def test_wrong_name(pvh_boot):
            pvh_boot().until("pvh_stort")
        """
    )
    code, counts, out = project.run(f"--pvh-kernel={HELLO}", "--pvh-keep=kept")
    assert (code, counts["failed"]) == (1, 5), out
    names = ("test_strict", "test_plain", "test_no_kernel", "test_wrong_allowance", "test_wrong_name")
    strict, plain, missing, wrong, misspelt = (out.split(f"_ {name} _")[1] for name in names)
    strict = strict.split("_ test_plain _")[0]
    assert "the hand-off VIOLATES the PVH boot ABI" in strict
    assert "tr.limit: expected 0x67, found 0xffff" in strict
    assert "pvh boot" in strict
    assert "CPU: pc 0x10" in strict
    assert "hello from PVH" in strict
    assert "booted.py" not in strict  # the frames of the plugin are hidden
    assert "- console=ttyS1" in plain
    assert "/nonexistent/vmlinux" in missing.split("_ test_wrong")[0]
    assert "there is no rule 'PVH-TR-LIMITS'" in wrong
    assert "the kernel has no symbol pvh_stort" in misspelt
    assert re.search(r"-+ next -+\ndid you mean pvh_start", misspelt)
    assert "symbols.py" not in misspelt  # nor are those of the package
    place = project.folder / "kept" / "test_boot.py-test_strict-0"
    assert str(place.relative_to(project.folder)) in strict
    assert {one.name for one in place.iterdir()} == {"entry.pvhsnap", "report.html", "serial.log", "qemu.log"}
    assert "hello from PVH" in (place / "serial.log").read_text()
    assert json.loads((place / "entry.pvhsnap").read_text())["schema"] == "pvhdbg/snapshot/1"
    assert "<!DOCTYPE html>" in (place / "report.html").read_text()


@pytest.mark.boot
def test_the_ini_file_says_it_once_and_several_qemus_run_each_test(project: Project) -> None:
    os.symlink(str(shutil.which("qemu-system-x86_64")), project.folder / "qemu-of-old")
    shutil.copy(HELLO, project.folder / "kernel.elf")
    project.ini("pvh_kernel = kernel.elf\npvh_machine = q35\n")
    project.test(
        """
        def test_it(pvh_boot, pvh_qemu, pvh_kernel, pvh_qemu_versions):
            boot = pvh_boot()
            assert len(pvh_qemu_versions) == 2
            assert pvh_qemu_versions[pvh_qemu] == boot.qemu.version
            assert pvh_kernel.name == "kernel.elf"
            assert boot.qemu.command[0].endswith(pvh_qemu.rsplit("/", 1)[-1])
            assert any(one.addr == 0xB0000000 for one in boot.entry.start_info.memory_map)  # q35's MMCONFIG
        """
    )
    code, counts, out = project.run("-v", "--pvh-qemu=qemu-system-x86_64", f"--pvh-qemu={project.folder / 'qemu-of-old'}")
    assert (code, counts["passed"]) == (0, 2), out
    assert "test_it[qemu-system-x86_64]" in out
    assert "test_it[qemu-of-old]" in out


@pytest.mark.boot
def test_side_by_side_under_xdist(project: Project) -> None:
    project.test(
        """
        import pytest

        @pytest.mark.parametrize("number", range(6))
        def test_it(pvh_boot, number):
            one, two = pvh_boot(append=f"a{number}"), pvh_boot(append=f"b{number}")
            assert str(one.entry.start_info.command_line) == f"a{number}"
            assert str(two.entry.start_info.command_line) == f"b{number}"
        """
    )
    code, counts, out = project.run(f"--pvh-kernel={HELLO}", "-n", "2")
    assert (code, counts["passed"]) == (0, 6), out


@pytest.mark.boot
@pytest.mark.skipif(pytest.version_tuple < (9,), reason="subtests are built in from pytest 9 on")
def test_each_rule_as_a_subtest(project: Project) -> None:
    project.test(
        """
        def test_strict(pvh_boot, subtests):
            pvh_boot().assert_each(subtests, strict=True)

        def test_allowed(pvh_boot, subtests):
            pvh_boot().assert_each(subtests, allow=["PVH-TR-LIMIT"], strict=True)
        """
    )
    code, counts, out = project.run(f"--pvh-kernel={HELLO}")
    assert (code, counts["passed"], counts["failed"]) == (1, 1, 2), out  # the subtest, and its test for it
    assert "[PVH-TR-LIMIT]" in out
    assert "tr.limit: expected 0x67, found 0xffff" in out


@pytest.mark.boot
def test_a_pytest_that_is_killed_leaves_nothing(project: Project) -> None:
    """The fixture's own end looks for processes and folders."""
    project.test(
        """
        import os, signal

        def test_it(pvh_boot):
            pvh_boot()
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert project.run(f"--pvh-kernel={HELLO}")[0] == -9


@pytest.mark.boot
def test_a_kernel_elsewhere_does_not_move_the_project(project: Project, tmp_path: Path) -> None:
    project.ini("pvh_machine = q35\n")
    project.test("def test_it(pvh_boot):\n    assert pvh_boot().qemu.command\n")
    kernel = shutil.copy(HELLO, tmp_path / "kernel.elf")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    code, _, out = project.run("--pvh-kernel", kernel)
    assert code == 4
    assert "write --pvh-kernel=PATH" in out
    code, counts, out = project.run(f"--pvh-kernel={kernel}")
    assert (code, counts["passed"]) == (0, 1), out


@pytest.mark.slow
def test_what_is_missing_is_said(project: Project) -> None:
    project.test("def test_it(pvh_boot):\n    pvh_boot()\n")
    code, counts, out = project.run()
    assert (code, counts["failed"]) == (1, 1)
    assert "--pvh-kernel" in out
    code, _, out = project.run(f"--pvh-kernel={HELLO}", "--pvh-qemu=/nonexistent/qemu")
    assert code == 1
    assert "/nonexistent/qemu" in out
    code, _, out = project.run("--help")
    assert "--pvh-keep" in out


@pytest.mark.boot
def test_a_test_runs_once_with_each_mutation(project: Project) -> None:
    code = """
        import pytest

        @pytest.mark.pvh_stress({})
        def test_survives(pvh_boot):
            with pvh_boot(append="relies=rsdp-zero") as boot:
                boot.until("survived")
    """
    kernel = f"--pvh-kernel={ROOT / 'pvhdbg' / 'guests' / 'fragile.elf'}"
    project.test(code.format('"esp-nil"'))
    assert "esp-nil is not a mutation" in project.run(kernel)[2]
    project.test(code.format('"esp-zero", "rsdp-zero", "module-cmdline"'))
    status, counts, text = project.run(kernel, "-rs")
    assert (status, counts) == (1, {"failed": 1, "passed": 1, "skipped": 1}), text
    assert "test_survives[rsdp-zero]" in text
    assert "the guest died before it reached survived" in text
    assert "there is no module" in text
