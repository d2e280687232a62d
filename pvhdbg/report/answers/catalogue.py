"""All answers by name: the answer NAME has the schema pvhdbg/NAME/1, in report/schemas/NAME-1.json."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pvhdbg.report.answers import boots, cpu, handoff, memory, prompt, stress, sweep, tool, traces
from pvhdbg.report.answers.declare import NAMES

_TOPICS = (cpu, handoff, memory, prompt, traces, boots, tool, stress, sweep)
ANSWERS: Mapping[str, type[Any]] = MappingProxyType(
    {NAMES[kind]: kind for topic in _TOPICS for kind in vars(topic).values() if isinstance(kind, type) and kind in NAMES}
)
