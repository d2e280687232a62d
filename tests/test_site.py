"""The documentation site without Sphinx, which `make docs` has: every page is in it, and the reference is made of the declarations."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import pvhdbg
from pvhdbg.commands.line import parse
from pvhdbg.commands.overview import address_of, page_of
from pvhdbg.commands.schema import names
from pvhdbg.commands.table import COMMANDS
from pvhdbg.expect.fields import every_path
from pvhdbg.guests import names as guest_names
from pvhdbg.spec.deviations import DEVIATIONS
from pvhdbg.tracing.milestones import TITLES
from tests.support.cli_runner import ROOT

DOCS = ROOT / "docs"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    script("write_reference").write_reference(folder)
    return folder


def test_every_page_is_in_the_site(reference: Path) -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = [
        line for tree in re.findall(r"^```\{toctree\}\n(.*?)^```$", index, re.MULTILINE | re.DOTALL) for line in tree.splitlines()
    ]
    pages = {line for line in listed if line and not line.startswith(":")}
    written = {path.stem for path in DOCS.glob("*.md")} - {"index"}
    assert pages == written | {f"reference/{path.stem}" for path in reference.glob("*.md")}


def test_the_reference_has_every_declaration(reference: Path) -> None:
    commands = (reference / "commands.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert f"\n### `{command.name}`\n" in commands
        for one in command.arguments_for(live=False):
            assert one.names[0] in commands or str(one.options["metavar"]).replace("|", "\\|") in commands
    schemas = (reference / "schemas.md").read_text(encoding="utf-8")
    assert re.findall(r"^## `pvhdbg/(\S+)/1`$", schemas, re.MULTILINE) == names()
    lists = (reference / "lists.md").read_text(encoding="utf-8")
    for name in (*every_path(), *guest_names(), *TITLES, *(one.key for one in DEVIATIONS)):
        assert f"`{name}`" in lists
    assert "70" in commands[: commands.index("\n## ")]  # the exit codes
    python = (reference / "python.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## `(\w+)`$", python, re.MULTILINE)) == set(pvhdbg.__all__)


GENERATED = {"rules", "bad-loader", "reliability", "healthy", "planted-deaths"}  # their programs write them


@pytest.mark.parametrize("page", sorted({path.stem for path in DOCS.glob("*.md")} - GENERATED))
def test_every_page_leads_on(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(([\w-]+)\.md", text)) - {page}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_names_the_page(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    name: str = command.name  # type: ignore[attr-defined]
    with pytest.raises(SystemExit):
        parse([*name.split(), "--help"])
    assert f"more: {address_of(page_of(name))}" in capsys.readouterr().out
    assert (DOCS / f"{page_of(name)}.md").exists()
    assert name.split()[0] in (DOCS / f"{page_of(name)}.md").read_text(encoding="utf-8") or page_of(name) == "start"
