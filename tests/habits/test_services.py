"""What CI services run of ours: the shell lines of the action and of the template on a real boot, and the hook of pre-commit."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cli_runner import HELLO, ROOT


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """`pvhdbg` where the services install it: this checkout, without pip."""
    found = tmp_path / "pvhdbg" / "bin" / "pvhdbg"
    found.parent.mkdir(parents=True)
    found.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m pvhdbg "$@"\n')
    found.chmod(0o755)
    return found


def shell(lines: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TMPDIR": str(folder), **variables}
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", lines], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.boot
@pytest.mark.parametrize(("args", "code"), [("--append console=ttyS0", 0), ("--entry 0x100000 --strict", 1)])
def test_the_step_of_the_action(program: Path, tmp_path: Path, args: str, code: int) -> None:
    action = read("action.yml")
    step = next(one for one in action["runs"]["steps"] if one.get("id") == "check")
    inputs = {name: str(one.get("default", "")) for name, one in action["inputs"].items()} | {"kernel": HELLO, "args": args}
    given = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: inputs[found[1]], text) for name, text in step["env"].items()
    }
    files = {name: str(tmp_path / name.lower()) for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")}
    done = shell(step["run"], tmp_path, RUNNER_TEMP=str(tmp_path), **files, **given)
    assert done.returncode == code, done.stderr
    assert Path(files["GITHUB_OUTPUT"]).read_text() == f"exit-code={code}\n"
    assert "PVH" in Path(files["GITHUB_STEP_SUMMARY"]).read_text()
    assert {path.name for path in (tmp_path / "pvhdbg-reports").iterdir()} == {"pvh.sarif", "pvh.html", "pvh.xml", "pvh.json"}
    assert re.search(r"^::(notice|error) ", done.stdout, re.MULTILINE)


def test_the_action_installs_and_uploads() -> None:
    cache, install, _, upload = read("action.yml")["runs"]["steps"]
    assert cache["with"]["path"] == "~/.cache/pip"
    assert "cache" in read("ci/gitlab.yml")[".pvhdbg"]
    assert 'pip" install' in install["run"]
    assert install["env"]["PVHDBG_ACTION_PATH"] == "${{ github.action_path }}"  # never inside the shell's lines
    assert "${{" not in install["run"]
    assert upload["if"] == "always()"


@pytest.mark.boot
def test_the_job_of_the_template(program: Path, tmp_path: Path) -> None:
    job = read("ci/gitlab.yml")[".pvhdbg"]
    variables = {**job["variables"], "KERNEL": HELLO}
    lines = "\n".join(job["script"]).replace("/tmp/pvhdbg-venv/bin/pvhdbg", str(program))
    done = shell(lines, tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / job["artifacts"]["reports"]["junit"]).exists()
    assert (tmp_path / "pvhdbg-reports" / "pvh.html").exists()


def test_the_hook_of_pre_commit(program: Path, tmp_path: Path) -> None:
    (hook,) = read(".pre-commit-hooks.yaml")
    chosen = re.compile(hook["files"])
    assert all(chosen.search(name) for name in ("vmlinux", "boot/vmlinux-6.1", "guests/hello.elf"))
    assert not chosen.search("README.md")
    line = hook["entry"].replace("pvhdbg", str(program), 1)
    assert shell(f"{line} {HELLO}", tmp_path).returncode == 0
    (tmp_path / "vmlinux").write_bytes(b"nothing")
    assert shell(f"{line} vmlinux", tmp_path).returncode != 0


@pytest.mark.boot
def test_annotations_are_on_the_file(program: Path, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "a, kernel.elf").write_bytes(Path(HELLO).read_bytes())
    done = shell(f"{program} check 'a, kernel.elf' --format github", tmp_path)
    assert "file=a%2C kernel.elf,title=PVH-TR-LIMIT" in done.stdout
    found = shell(f"{program} elf 'a, kernel.elf' --format github", tmp_path)
    assert found.returncode == 0
