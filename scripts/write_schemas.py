#!/usr/bin/env python3
"""Write the JSON schemas that follow from the declarations in pvhdbg/report/answers/ (a test compares them)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "pvhdbg" / "report" / "schemas"


def schemas() -> dict[str, str]:
    """The text of each generated schema, by its file's name."""
    sys.path.insert(0, str(ROOT))
    from pvhdbg.report.answers.catalogue import ANSWERS
    from pvhdbg.report.answers.schema import schema

    others = {one.name.removesuffix("-1.json"): json.loads(one.read_text()) for one in FOLDER.glob("*-1.json")}
    return {f"{name}-1.json": json.dumps(schema(name, others), indent=1) + "\n" for name in ANSWERS}


if __name__ == "__main__":
    for name, text in schemas().items():
        (FOLDER / name).write_text(text)
