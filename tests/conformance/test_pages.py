"""The two pages in docs are what the declarations say, and the record holds nothing that was not seen."""

import re
from functools import lru_cache
from pathlib import Path

import pytest

from conformance import table, vmms
from pvhdbg.report import rules_page, vmms_page
from pvhdbg.rules.catalogue import CHAPTERS, MACHINE_RULES, RULES
from pvhdbg.spec.deviations import DEVIATIONS, Deviation

DOCS = Path(__file__).parents[2] / "docs"


@lru_cache
def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """What can be linked to in a Markdown page, by GitHub's way of making anchors of headings."""
    titles = re.findall(r"^#{1,6} (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_page_of_rules_is_current() -> None:
    assert page("rules.md") == rules_page.render(), "run: python -m conformance --rules-only"


def test_the_page_of_vmms_is_current_and_says_of_each_record_whether_it_matters() -> None:
    assert page("vmms.md") == vmms_page.render(), "run: python -m conformance --rules-only"
    for deviation in DEVIATIONS:
        assert deviation.matters
        assert f"[{deviation.key}](rules.md#{deviation.key.lower()})" in page("vmms.md")


def test_the_page_of_rules_explains_each_rule_and_record_once() -> None:
    headings = re.findall(r"^#{2,4} (.*)$", page("rules.md"), re.MULTILINE)
    assert sorted(headings) == sorted(
        [*(title for title, _ in CHAPTERS), *(rule.id for rule in RULES), *(deviation.key for deviation in DEVIATIONS)]
    )
    for rule in RULES:
        assert rules_page.escaped(rule.clause.words) in page("rules.md")
        assert rule.clause.document.url in page("rules.md")


def test_the_table_lists_each_rule_of_today_and_no_other() -> None:
    programs = table.programs(page("conformance.md"))
    assert len(programs) >= 2
    for program in programs:
        part = page("conformance.md").split(f"### All rules: {program}\n")[1].split("\n#")[0]
        assert re.findall(r"^\| \[([^]]+)\]", part, re.MULTILINE) == [rule.id for rule in MACHINE_RULES], "run: make conformance"


def test_the_table_of_other_vmms_has_xen_in_two_versions_and_no_open_failure() -> None:
    part = vmms.part_of(page("conformance.md"))
    (head,) = [line for line in part.splitlines() if line.startswith("| rule |")]
    assert re.search(r"\| Xen 4\.17\.\d+ \| Xen 4\.20\.\d+ \|", head)
    assert "FAIL" not in part
    assert set(re.findall(r"^\| \[([^]]+)\]", part, re.MULTILINE)) <= {rule.id for rule in MACHINE_RULES}
    assert page("conformance.md").endswith(part)
    assert vmms.part_of("# A page") == ""


def test_every_link_leads_somewhere() -> None:
    targets = anchors(page("rules.md"))
    for name in ("conformance.md", "rules.md", "vmms.md"):
        links = re.findall(r"\]\((rules\.md)?#([^)]+)\)", page(name))
        assert links
        for _, anchor in links:
            assert anchor in targets, f"{name} links to #{anchor}"


def test_nothing_that_the_table_saw_fail_is_left_open() -> None:
    deviations = page("conformance.md").split("## Deviations")[1].split("## Remarks")[0]
    assert [line for line in deviations.splitlines() if line.startswith("|") and "FAIL" in line] == []
    assert "## Boots that made no hand-off" not in page("conformance.md")


# Of VMMs without a firmware tests/decode/test_vmm_logs.py asks the same, by the logs that were recorded of them.
@pytest.mark.parametrize("deviation", [one for one in DEVIATIONS if one.firmware], ids=lambda deviation: deviation.key)
def test_the_record_excuses_only_what_the_table_saw(deviation: Deviation) -> None:
    lines = [
        line for line in page("conformance.md").splitlines() if f"| [{deviation.key}](rules.md#{deviation.key.lower()}) |" in line
    ]
    assert lines, "it is on record, and no boot showed it"
    for value in deviation.found or ():
        assert any(f"{value}`" in line for line in lines), value
    for firmware in deviation.firmware:
        assert any(f"| {firmware} |" in line for line in lines), firmware
    versions = {program.split()[1] for program in table.programs(page("conformance.md"))}
    seen = {version for version in versions if any(f"| {deviation.vmm} {version} |" in line for line in lines)}
    if deviation.until:
        until = ".".join(map(str, deviation.until))
        assert any(version == until or version.startswith(f"{until}.") for version in seen), f"nothing was seen of {until}"
