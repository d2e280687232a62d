"""Settings: which one wins, what a project's file may not do, and that they are defaults of options and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from pvhdbg.commands.line import parse
from pvhdbg.commands.settings import NAMES, settings
from pvhdbg.commands.table import COMMANDS
from pvhdbg.errors import BadInput
from tests.support.cli_runner import HELLO, Cli


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository, with the current folder inside it; and a home of its own."""
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    inside = tmp_path / "repository" / "kernel"
    inside.mkdir()
    monkeypatch.chdir(inside)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in NAMES:
        monkeypatch.delenv(f"PVHDBG_{name.upper()}", raising=False)
    return tmp_path / "repository"


def own_file(project: Path, text: str) -> None:
    folder = project.parent / "config" / "pvhdbg"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(text)


def values(*words: str) -> dict[str, Any]:
    return parse([*words])[1]


def test_later_ones_win(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert values("check", HELLO)["machine"] is None
    own_file(project, 'machine = "pc"\nqemu = "my-qemu"\n')
    assert (values("check", HELLO)["machine"], values("check", HELLO)["qemu"]) == ("pc", "my-qemu")
    (project / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.pvhdbg]\nmachine = "q35"\ntimeout = 5\n')
    assert (values("check", HELLO)["machine"], values("check", HELLO)["timeout"]) == ("q35", 5.0)
    (project / "kernel" / "pvhdbg.toml").write_text('machine = "microvm"\n')  # nearer
    assert values("check", HELLO)["machine"] == "microvm"
    monkeypatch.setenv("PVHDBG_MACHINE", "isapc")
    assert values("check", HELLO)["machine"] == "isapc"
    assert values("check", HELLO, "-M", "none")["machine"] == "none"
    assert values("check", HELLO, "--timeout=30")["timeout"] == 30.0
    assert settings()["machine"].source == "PVHDBG_MACHINE"


def test_settings_about_qemu_are_for_kernel_files(project: Path) -> None:
    own_file(project, 'machine = "q35"\nmemory = "1G"\nspec = "v0"\n')
    assert (values("check", ":1234")["machine"], values("check", ":1234")["spec"]) == (None, "v0")
    assert values("elf", HELLO)["memory"] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('qemu = "/tmp/evil"', "may not name the program qemu"),
        ('machine = "pc,firmware=x.bin"', "more than a machine's type"),
        ('machin = "q35"', "machin is not a setting"),
        ('memory = "1G,maxmem=2G"', "more than a size"),
        ("machine = " + "[\n" * 2000, "pvhdbg.toml"),
        ("a" + ".a" * 200_000 + " = 1", "a line more than 1000"),
        ("#\n" * 10_000, "more than 16384 bytes"),
        ('timeout = "soon"', "is not a number"),
        ('accel = "hax"', "is not one of tcg, kvm, auto"),
        ("machine = [1]", "is not text"),
        ("machine = ", "pvhdbg.toml"),
    ],
)
def test_a_projects_file_that_is_wrong(project: Path, text: str, said: str) -> None:
    (project / "pvhdbg.toml").write_text(text)
    with pytest.raises(BadInput) as error:
        values("check", HELLO)
    assert said in error.value.what


def test_of_pyproject_only_our_table_is_read(project: Path) -> None:
    """The rest may be as large and as strange as it likes: it is other tools'."""
    strange = "a" + ".a" * 100_000 + " = 1\n"
    (project / "pyproject.toml").write_text(f'{strange}[tool.pvhdbg]  # ours\nmachine = "q35"\n[tool.other]\nqemu = "x"\n{strange}')
    assert settings()["machine"].value == "q35"
    assert "qemu" not in settings()
    (project / "pyproject.toml").write_text('[tool.other]\ndescription = "tool.pvhdbg"\nmachine = 1\n')
    assert "machine" not in settings()


def test_a_hostile_checkout_runs_and_writes_nothing(cli: Cli) -> None:
    """What would run a program or write a file is refused, before anything is started."""
    (cli.folder / ".git").mkdir()
    evil = cli.file("evil", "#!/bin/sh\ntouch ran\n")
    for name in ("qemu", "pager", "serial", "gdb", "append", "extra", "initrd"):
        cli.file("pvhdbg.toml", f'{name} = "{evil}"\n')
        cli("check", HELLO, env={"XDG_CONFIG_HOME": str(cli.folder / "none")}).complaint(2, "pvhdbg.toml", name)
    assert sorted(cli.files()) == [".git", "evil", "pvhdbg.toml"]


def test_a_file_outside_of_the_repository_is_not_the_projects(project: Path) -> None:
    (project.parent / "pvhdbg.toml").write_text('machine = "q35"\n')
    assert values("check", HELLO)["machine"] is None


def test_every_setting_is_an_option() -> None:
    options = {name for command in COMMANDS for one in (*command.arguments, *command.output_arguments()) for name in one.names}
    assert {f"--{name}" for name in NAMES} <= options


def test_config_shows_what_holds(cli: Cli) -> None:
    env = {"PVHDBG_MACHINE": "q35", "XDG_CONFIG_HOME": str(cli.folder)}
    shown = cli("config", env=env).ok().out
    assert "machine  q35                  PVHDBG_MACHINE\n" in shown
    assert "qemu     (default)\n" in shown
    document = cli("config", "--format", "json", env=env).ok().json()
    assert {"name": "machine", "value": "q35", "source": "PVHDBG_MACHINE"} in document["settings"]
