"""`explain` and `rules`: describe the rules themselves."""

from __future__ import annotations

from typing import Any

from pvhdbg.commands.declare import Answer, Context, NoOptions, takes
from pvhdbg.record import NamedTuple
from pvhdbg.report import text
from pvhdbg.report.json_text import written
from pvhdbg.rules.catalogue import CHAPTERS, RULES, find
from pvhdbg.rules.declare import Rule


class ExplainOptions(NamedTuple):
    """The options of `explain`."""

    id: str


@takes(ExplainOptions)
def explain(options: ExplainOptions, context: Context) -> Answer:
    """`explain`: one rule. Raises BadInput for an id that names no rule."""
    rule = find(options.id)
    return Answer(
        lambda style: text.render_rule(rule, style), lambda: written({"schema": "pvhdbg/rule/1", **_document(rule)}), value=rule
    )


@takes(NoOptions)
def rules(options: NoOptions, context: Context) -> Answer:
    """`rules`: all of them."""
    return Answer(
        lambda style: text.render_rules(CHAPTERS, style),
        lambda: written({"schema": "pvhdbg/rules/1", "rules": [_document(rule) for rule in RULES]}),
    )


def _document(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "title": rule.title,
        "severity": rule.severity.value,
        "revisions": sorted(rule.revisions),
        "clause": {"document": rule.clause.document.name, "url": rule.clause.document.url, "words": rule.clause.words},
        "why": rule.why,
    }
