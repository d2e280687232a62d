"""The conformance table: every sample guest on every machine and firmware of the QEMUs at hand, judged and written down.

`make conformance` (or `python -m conformance`) boots them and writes docs/conformance.md and docs/rules.md. It is a program
beside pvhdbg and no part of it; a boot is `pvhdbg.check`, as anybody may call it.
"""
