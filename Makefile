# pyruntime: `make run` and `make test` do all set-up themselves; `make help` lists the rest.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The system's interpreter, not a version manager's slow stand-in.
PYTHON := $(if $(wildcard /usr/bin/python3),/usr/bin/python3,python3)
PY := .venv/bin/python
PROGRAM := build/pyruntime
BUNDLE := .cache/bundle
ARGS ?=

EXT_SOURCES := $(wildcard csrc/ext*.[ch] csrc/seccomp*.[ch] csrc/bpf*.[ch] csrc/unpack*.[ch]) \
	$(wildcard pyruntime/native/build_*.py)
MODULES := $(wildcard pyruntime/*.py pyruntime/*/*.py)
INIT_SOURCES := $(wildcard csrc/*.[ch] csrc/Makefile)

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

# ---- set-up, each step behind a stamp so that the second call is quick ----------------------------------------------
.cache/host-build.stamp: tools/host-packages
	@mkdir -p .cache
	@echo "==> Debian packages for building"
	@tools/host-packages build
	@touch $@

.cache/host-test.stamp: tools/host-packages
	@mkdir -p .cache
	@echo "==> Debian packages for testing"
	@tools/host-packages test
	@touch $@ .cache/host-build.stamp

.venv/build.stamp: | .cache/host-build.stamp
	@echo "==> virtual environment in .venv (cffi, setuptools)"
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(PY) -m pip install -q --disable-pip-version-check --upgrade-strategy only-if-needed \
		"cffi>=1.15" "setuptools>=66" wheel </dev/null
	@touch $@

.venv/run.stamp: setup.cfg tools/pip-needs | .venv/build.stamp
	@echo "==> Python packages for running"
	@$(PY) -m pip install -q --disable-pip-version-check $$($(PY) tools/pip-needs run) </dev/null
	@touch $@

.venv/dev.stamp: setup.cfg tools/pip-needs | .venv/build.stamp
	@echo "==> Python packages for running and testing"
	@$(PY) -m pip install -q --disable-pip-version-check $$($(PY) tools/pip-needs) </dev/null
	@touch $@

# ---- build ---------------------------------------------------------------------------------------------------------
.cache/ext.stamp: $(EXT_SOURCES) setup.py .venv/build.stamp
	@echo "==> C extension"
	@$(PY) -W ignore setup.py -q build_ext --inplace
	@touch $@

.cache/init.stamp: $(INIT_SOURCES) | .cache/host-build.stamp
	@echo "==> container-init"
	@$(MAKE) -s -C csrc container-init
	@touch $@

$(PROGRAM): $(wildcard csrc/launcher*.[ch] csrc/ext.[ch] csrc/ext_cdef.h csrc/ext_spawn*.[ch]) tools/image.py setup.py .venv/build.stamp
	@echo "==> launcher"
	@$(PY) -W ignore setup.py -q build_scripts --build-dir build
	@ln -sf ../../$(PROGRAM) .venv/bin/pyruntime

pyruntime/native/modules.image: $(MODULES) tools/image.py .venv/build.stamp
	@echo "==> module image"
	@$(PY) tools/image.py $@

# The engine's programs, from this folder; a wheel has them as console scripts.
.venv/bin/pyctr: tools/dev-scripts .venv/build.stamp
	@tools/dev-scripts .venv/bin

.PHONY: build
build: .venv/build.stamp .venv/run.stamp .cache/ext.stamp .cache/init.stamp $(PROGRAM) pyruntime/native/modules.image .venv/bin/pyctr ## C extension, container-init and launcher, usable from this folder

# ---- the two commands -----------------------------------------------------------------------------------------------
$(BUNDLE)/config.json: tools/make-bundle | build
	@echo "==> bundle of busybox in $(BUNDLE)"
	@tools/make-bundle $(BUNDLE)

.PHONY: run
run: build $(BUNDLE)/config.json ## set up, build, and run a container: ends with what it prints
	@echo "==> pyruntime run $(BUNDLE)/"
	@$(PROGRAM) run $(BUNDLE)/

.PHONY: dev
dev: .cache/host-test.stamp .venv/dev.stamp build ## all that tests and checks need

.PHONY: test
test: dev ## set up and run every tier this machine can run; skips are listed with what is missing
	@$(PY) tools/test-tiers $(ARGS)

.PHONY: test-all
test-all: dev ## everything, the slow tests included, with time per tier
	@$(PY) tools/test-tiers --all $(ARGS)

.PHONY: test-vm
test-vm: dev ## the tests of cgroup v2 in a virtual machine; ARGS go to pytest
	@VM_TIMEOUT=$${VM_TIMEOUT:-5400} tools/test-vm $(ARGS)

# ---- development ----------------------------------------------------------------------------------------------------
.PHONY: format
format: dev ## format C and Python
	@$(MAKE) -C csrc format
	@$(PY) -m ruff check --fix-only -q . || true

.PHONY: lint
lint: dev ## ruff and the C format
	@echo "==> lint"
	@$(PY) -m ruff check .
	@$(MAKE) -C csrc check-format

.PHONY: types
types: dev ## mypy, strict
	@echo "==> types"
	@$(PY) -m mypy

.PHONY: unit
unit: dev ## unit tests, layers and start-up
	@$(PY) tools/test-tiers unit

.PHONY: check
check: lint types unit ## format, lint, types, unit tests, layers, start-up

.PHONY: bench
bench: dev ## measure beside runc and crun; ARGS="--rounds 100 --peer PATH"
	@$(PY) benchmarks/bench.py $(ARGS)

.PHONY: bench-image
bench-image: dev ## measure pull and unpack beside docker, podman, skopeo+umoci, ctr; ARGS="--rounds 5 --images 1,6,1+zstd"
	@$(PY) benchmarks/bench_image.py $(ARGS)

.PHONY: bench-vm
bench-vm: dev ## measure the systemd driver beside runc's in the virtual machine; ARGS="--rounds 20"
	@tools/test-vm -b $(ARGS)

.PHONY: faults
faults: dev ## inject every fault (an hour or so) and write conformance/FAULTS.md; PYRUNTIME_SEED=1
	@rm -f conformance/FAULTS.md.counts
	@PYRUNTIME_FAULTS_REPORT=$(CURDIR)/conformance/FAULTS.md $(PY) -m pytest -q -n 2 --dist worksteal tests/faults -m slow

FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: dev ## fuzz the parsers of container-init and the layer unpacker, FUZZ_SECONDS=60 each
	@$(MAKE) -C csrc fuzz
	@mkdir -p .cache/fuzz .cache/fuzz-passwd .cache/fuzz-path .cache/fuzz-proc .cache/fuzz-wire .cache/fuzz-unpack
	@csrc/fuzz-decode -max_total_time=$(FUZZ_SECONDS) .cache/fuzz
	@csrc/fuzz-passwd -max_total_time=$(FUZZ_SECONDS) -max_len=16384 .cache/fuzz-passwd
	@csrc/fuzz-proc -max_total_time=$(FUZZ_SECONDS) -max_len=300 .cache/fuzz-proc
	@csrc/fuzz-wire -max_total_time=$(FUZZ_SECONDS) -max_len=16384 .cache/fuzz-wire
	@room=$$(mktemp -d -p /dev/shm) && here=$$PWD && cd $$room && { $$here/csrc/fuzz-path -max_total_time=$(FUZZ_SECONDS) \
		-max_len=2000 -artifact_prefix=$$here/ $$here/.cache/fuzz-path; code=$$?; rm -rf $$room; exit $$code; }
	@csrc/fuzz-unpack -max_total_time=$(FUZZ_SECONDS) -max_len=32768 .cache/fuzz-unpack

.PHONY: sanitize
sanitize: dev ## the system tier on a container-init with address and undefined-behaviour sanitizers
	@$(MAKE) -s -C csrc sanitize
	@unshare -m sh -c 'mount --make-rprivate / && mount --bind csrc/container-init-sanitize pyruntime/native/container-init && exec "$$@"' \
		sh $(PY) -m pytest -q -m "not slow" -k "not test_init_runs_from_a_sealed_copy" -p no:cacheprovider tests/system

.PHONY: analyze
analyze: dev ## static analysis of all C: gcc -fanalyzer and clang-tidy
	@$(MAKE) -C csrc analyze

.PHONY: docs
docs: dev ## manual pages and shell completion from the flag tables
	@$(PY) tools/make-docs docs

.PHONY: wheel
wheel: dev ## a wheel in dist/
	@$(PY) -m pip wheel -q --no-deps --no-build-isolation -w dist . </dev/null
	@ls dist/*.whl

.PHONY: clean
clean: ## remove what was built, not .venv
	@rm -rf build dist .cache pyruntime/native/*.so pyruntime/native/modules.image pyruntime/native/container-init pyruntime/COMMIT
