"""The fuzzer: hostile input for every reader of pvhdbg, and lying peers on real sockets. `make fuzz FUZZ_SECONDS=…` runs it.

It is a separate program and not a part of pvhdbg. One target a file is in `fuzz/targets`; `fuzz/oracle` says what is a failure, the same
for all; `fuzz/corpus` holds past failures, and files that no writer here makes. atheris (`pip install -e '.[fuzz]'`) guides the
mutations by coverage; where it is not installed, `fuzz/mutate` mutates blindly.
"""
