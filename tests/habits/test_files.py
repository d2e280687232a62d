"""The files beside the package: what they name is there, and what GitHub and pre-commit read is what they can read."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pvhdbg.version import VERSION
from tests.support.cli_runner import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "test.yml"
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "docs" / "releasing.md", *sorted((ROOT / ".github").rglob("*.md"))]
YAML = [WORKFLOW, ROOT / ".pre-commit-config.yaml", *sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))]
TARGETS = set(re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
MADE = ("build/", "dist/", ".venv/")  # not in the repository


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def identified(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*PAGES, *YAML], ids=identified)
def test_make_targets_and_paths_that_are_named_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"(?:`|run: |setup: )make ([a-z][a-z-]*)", text)
    assert set(named) <= TARGETS
    for word in re.findall(r"(?<![\w/.:{])((?:\.?\w[\w.-]*/)+[\w.-]*|[A-Z]+\.md|\.venv/\S+)(?![\w/{*])", text):
        if word.startswith(MADE) or "NAME" in word or "://" in word or _is_foreign(word):
            continue
        assert (ROOT / word).exists() or (path.parent / word).exists(), word


def _is_foreign(word: str) -> bool:
    """An action of GitHub's, or a part of an address."""
    return word.startswith("actions/") or word.split("/")[0] in ("dl.google.com", "pre-commit.com", "semver.org", "linux")


def test_the_workflow_runs_all_tests_on_every_python_and_distribution() -> None:
    jobs = read(WORKFLOW)["jobs"]
    assert jobs["python"]["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13", "3.14"]
    assert {image.split(":")[0] for image in jobs["distribution"]["strategy"]["matrix"]["image"]} == {"debian", "ubuntu"}
    for job in jobs.values():
        assert any(str(step.get("run", "")).startswith("make test") for step in job["steps"])
        assert job["timeout-minutes"] <= 60


def shell_steps() -> list[Any]:
    """Each step of the workflow's jobs and of the action that runs shell lines, with what its expressions may name."""
    action, found = read(ROOT / "action.yml"), []
    inputs = {f"inputs.{name}" for name in action["inputs"]}
    for name, job in read(WORKFLOW)["jobs"].items():
        matrix = {f"matrix.{key}" for key in job["strategy"]["matrix"]}
        found += [pytest.param(step, matrix, id=f"{name} {step['run']}") for step in job["steps"] if "run" in step]
    return found + [pytest.param(step, inputs, id=f"action {step['id']}") for step in action["runs"]["steps"] if "run" in step]


@pytest.mark.parametrize(("step", "declared"), shell_steps())
def test_a_shell_step_is_shell_and_names_what_there_is(step: dict[str, Any], declared: set[str]) -> None:
    assert "${{" not in step["run"], "an expression in shell lines is pasted unquoted: give it by env"
    subprocess.run(["bash", "-n"], input=step["run"], text=True, check=True, timeout=30)
    known = declared | {"github.action_path", "runner.os", "runner.arch"}
    for said in (*step.get("env", {}).values(), step.get("if", "")):
        named = set(re.findall(r"\b(?:inputs|matrix|github|runner|steps|env)\.[\w.-]+", said))
        assert named <= known
    for program in re.findall(r"(?:scripts|\.venv)/[\w./-]+", step["run"]):
        assert (ROOT / program).exists()


@pytest.mark.parametrize("path", FORMS, ids=identified)
def test_an_issue_form_has_what_github_asks_for(path: Path) -> None:
    form = read(path)
    assert form.keys() == {"name", "description", "labels", "body"}
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["type"] in ("input", "textarea") and field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_the_hooks_are_the_checkouts_own_tools() -> None:
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/ruff ")


def test_the_changelog_has_its_form() -> None:
    """https://keepachangelog.com: versions with dates, the newest first, and what changed by kind."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - (\d{4}-\d\d-\d\d|not released yet)", version) for version in versions[1:])
    assert f"## [{VERSION}]" in text
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
