"""The conformance table: every sample guest on every machine and firmware of the QEMUs at hand, judged and written down.

`make conformance` (or `python -m conformance`) boots them and writes docs/conformance.md and docs/rules.md. It is a separate
program and not a part of pvhdbg; a boot is a call of the public `pvhdbg.check`.
"""
