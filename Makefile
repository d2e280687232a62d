# make setup   install the missing ones of QEMU, GDB and binutils, and pvhdbg itself in .venv
# make demo    boot the sample guest `hello` and judge its hand-off
# make test    all tests, ruff and mypy
# make test-fast   the tests that start no QEMU, GDB or browser, and take less than a second each: half a minute
# make coverage    all tests, and the share of each room's lines that they ran (GDB's own Python is not measured)
# make test-gdbs   the tests that use GDB, with GDB 16, 17 and 18 from PyPI and each Python that is found (see scripts/test-gdbs.sh)
# make test-pythons   the wheel in a clean venv of each Python that is found (PYTHONS="..."), and each interface of it
# make test-real   drgn and editors' breakpoints on the distribution's kernel with debug info, which is fetched once (300 MB)
# make test-loaders   the simulated loaders against the real ones: rust-vmm's linux-loader (with cargo), libxenguest, QEMU
# make test-planted-linux   build a Linux of a small configuration with planted deaths, and let `why` name each (see the script)
# make test-bare   make demo and make test in a bare Debian: RELEASE=trixie or bookworm (see scripts/test-bare.sh; needs root)
# make docs    the documentation site, as build/site/index.html: warnings are errors, and internal links are checked
# make bench   the benchmarks: one table, then what a sweep costs beside its boots, and 500 cells on a Dask cluster with troubles
#                    (BENCH_ARGS="--only recorder --only travel" for a part of the table, and nothing else)
# make conformance   boot every sample guest on every machine and firmware, and write docs/conformance.md and docs/rules.md
#                    (CONFORMANCE_ARGS="--qemu PATH --qemu PATH -j 2"; see `python -m conformance --help`);
#                    its sweeps are in build/conformance.db, and --resume goes on with them;
#                    the probe under the other VMMs that are here, too (--xen IMAGE for each version of Xen; --vmms-only)
# make fuzz    hostile input for every reader, for FUZZ_SECONDS=60 in all; adds to the figures in docs/reliability.md
# make torture ROUNDS=100 kills at random moments, and odd surroundings; adds to the same figures
# make test-healthy   guests that do nothing wrong are watched by `why`, which must accuse none; adds to docs/healthy.md
#                     (HEALTHY_ARGS="--kernel VMLINUZ --boots 10 --qemu PATH"; see `python -m healthy --help`)
# make test-planted   each planted death with each QEMU: `why` must name it; writes docs/planted-deaths.md
#                     (PLANTED_ARGS="--qemu PATH --qemu PATH --linux VMLINUX"; see `python -m planted --help`)
# make guests  build the sample guests again (not necessary: the repository contains them)
# make lint    ruff and mypy only
# make clean   remove all build output, and .venv

.DEFAULT_GOAL := setup
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
PYTEST_ARGS ?=

# The tests start thousands of Pythons. If the environment forbids compiled modules, each of them compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup
setup:
	@scripts/setup.sh

.PHONY: demo
demo: setup
	@$(BIN)/pvhdbg run --batch pvhdbg/guests/hello.elf

# Each part runs even if an earlier one failed; the target fails if any part failed. Many tests wait for a machine: one process more than
# there are CPUs keeps these busy.
.PHONY: test
test:
	@scripts/setup.sh --tests
	@failed=; \
	timeout 1800 $(BIN)/pytest -q -n "$$(($$(nproc) + 1))" $(PYTEST_ARGS) || failed="$$failed pytest"; \
	timeout 300 $(BIN)/ruff check . || failed="$$failed ruff"; \
	timeout 300 $(BIN)/ruff format --check . || failed="$$failed format"; \
	timeout 600 $(BIN)/mypy || failed="$$failed mypy"; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi; \
	echo "all passed: pytest, ruff (lint and format), mypy"

# For the omitted tests and the sorting of tests see tests/support/sorting.py.
.PHONY: test-fast
test-fast:
	@scripts/setup.sh --tests
	@timeout 600 $(BIN)/pytest -q -n "$$(($$(nproc) + 1))" --dist worksteal --fast $(PYTEST_ARGS)

# The table is printed even if tests failed; the target then fails.
.PHONY: coverage
coverage:
	@scripts/setup.sh --tests
	@rm -rf build/coverage && mkdir -p build/coverage
	@failed=; \
	timeout 3600 $(BIN)/coverage run -m pytest -q -n "$$(nproc)" $(PYTEST_ARGS) || failed=yes; \
	$(BIN)/coverage combine -q && $(BIN)/coverage json -q && $(BIN)/python scripts/coverage_by_room.py build/coverage/report.json; \
	[ -z "$$failed" ] || { echo "failed: pytest" >&2; exit 1; }

# Not part of `make test`: it downloads 40 MB for each GDB, and takes 15 seconds with each.
.PHONY: test-gdbs
test-gdbs:
	@scripts/setup.sh --tests
	@scripts/test-gdbs.sh

# Not part of `make test`: it installs the dependencies from PyPI for each Python.
.PHONY: test-pythons
test-pythons:
	@scripts/setup.sh --tests
	@scripts/test-pythons.sh

# Not part of `make test`: it downloads 300 MB and keeps 600. Breakpoints of an editor need GDB 14 or newer in PATH.
.PHONY: test-real
test-real:
	@scripts/setup.sh --tests
	@CI=true timeout 900 $(BIN)/pytest -q --real $(PYTEST_ARGS)

# Not part of `make test`: it needs cargo, and the crate or a mirror of Debian, and says so where they are missing.
.PHONY: test-loaders
test-loaders:
	@scripts/setup.sh --tests
	@scripts/test-loaders.sh

# Not part of `make test`: it downloads 140 MB and builds a kernel, which takes minutes of CPU.
.PHONY: test-planted-linux
test-planted-linux:
	@scripts/setup.sh --tests
	@scripts/test-planted-linux.sh

# Each is a whole Debian of 1.5 GB under build/, and takes a quarter of an hour.
.PHONY: test-bare
test-bare:
	@RELEASE="$(RELEASE)" scripts/test-bare.sh

.PHONY: lint
lint: setup
	@failed=; \
	timeout 300 $(BIN)/ruff check . || failed="$$failed ruff"; \
	timeout 300 $(BIN)/ruff format --check . || failed="$$failed format"; \
	timeout 600 $(BIN)/mypy || failed="$$failed mypy"; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

.PHONY: docs
docs: setup
	@$(BIN)/python -c 'import sphinx, myst_parser, furo' 2>/dev/null || $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[docs]'
	@PYTHONPATH=. timeout 600 $(BIN)/sphinx-build -q -W --keep-going -b html docs build/site
	@echo "built build/site/index.html"

BENCH_ARGS ?=

.PHONY: bench
bench: setup
	@$(BIN)/python -m benchmarks.run $(BENCH_ARGS)
	@[ -n "$(BENCH_ARGS)" ] || $(BIN)/python -m benchmarks.sweeps

CONFORMANCE_ARGS ?=

.PHONY: conformance
conformance: setup
	@$(BIN)/python -m conformance $(CONFORMANCE_ARGS)

FUZZ_SECONDS ?= 60
FUZZ_ARGS ?=

.PHONY: fuzz
fuzz: setup
	@scripts/setup.sh --tests
	@$(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS) $(FUZZ_ARGS)

ROUNDS ?= 100
TORTURE_ARGS ?=

.PHONY: torture
torture: setup
	@scripts/setup.sh --tests
	@$(BIN)/python -m torture --rounds $(ROUNDS) $(TORTURE_ARGS)

HEALTHY_ARGS ?=

.PHONY: test-healthy
test-healthy: setup
	@scripts/setup.sh --tests
	@$(BIN)/python -m healthy $(HEALTHY_ARGS)

PLANTED_ARGS ?=

.PHONY: test-planted
test-planted: setup
	@scripts/setup.sh --tests
	@$(BIN)/python -m planted $(PLANTED_ARGS)

# ---- the sample guests: sample_guests/NAME/NAME.S becomes $(GUESTS_DIR)/NAME.elf, with GNU as and ld only ----

GUESTS_DIR ?= pvhdbg/guests
BUILD_DIR ?= build/guests
OBJCOPY ?= objcopy
GUEST_SOURCES := $(wildcard sample_guests/*/*.S)
GUEST_ELFS := $(foreach source,$(GUEST_SOURCES),$(GUESTS_DIR)/$(basename $(notdir $(source))).elf)

.PHONY: guests
guests: $(GUEST_ELFS)

# -mx86-used-note=no: no .note.gnu.property, which would hide the PVH note from QEMU.
# Constants (in capitals) leave the symbol table: a value like 0x3f8 is not an address.
define guest_rule
$(GUESTS_DIR)/$(basename $(notdir $(1))).elf: $(1) sample_guests/guest.ld sample_guests/guest.inc $(wildcard $(dir $(1))*.inc)
	@mkdir -p $(BUILD_DIR) $$(@D)
	@$$(AS) --64 -mx86-used-note=no -I sample_guests -o $(BUILD_DIR)/$$(@F:.elf=.o) $$<
	@$$(LD) -m elf_x86_64 -nostdlib -static --build-id=none -z max-page-size=4096 -z noexecstack \
		-T sample_guests/guest.ld -o $$@ $(BUILD_DIR)/$$(@F:.elf=.o)
	@$$(OBJCOPY) --strip-debug --wildcard --strip-symbol='[A-Z]*' $$@
	@echo "built $$@"
endef
$(foreach source,$(GUEST_SOURCES),$(eval $(call guest_rule,$(source))))

.PHONY: clean
clean:
	@rm -rf build dist .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	@find pvhdbg tests benchmarks conformance fuzz torture healthy planted -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
