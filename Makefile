# Needs Python 3.11, pip and make; everything else is installed into .venv by the first target that wants it.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Two workers, each test file whole on one of them: session fixtures convert a network once, not once per worker.
PYTEST_ARGS ?= -n 2 --dist loadfile
DEMO_ARGS ?=
# NPU=1: with Qualcomm's compiler and emulator, whose licence is yours to accept (make help).
NPU ?=

TORCH := $(VENV)/.stamp-torch
RUN := $(VENV)/.stamp-run
QNN := $(VENV)/.stamp-qnn
DEV := $(VENV)/.stamp-dev

# --no-compile: only the modules that are ever imported get compiled, then; it saves minutes.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off --no-compile -c constraints.txt
# One line per ten packages: a silent install of 2.5 GB looks like a hang. All of pip's words are in the log.
QUIETLY := 2>&1 | tee -a $(VENV)/install.log | awk '/^ *Collecting / { if (++n % 10 == 1) print "  package " n ": " $$2 } \
	/^Installing collected/ { print "  unpacking " NF - 3 " packages" } { fflush() }' \
	|| { tail -n 20 $(VENV)/install.log >&2; exit 1; }

.PHONY: help setup demo test check format docs lock clean distclean
help:
	@echo "make setup   .venv with everything; source .venv/bin/activate then gives you edge-sr"
	@echo "make demo    set up, then export, verify and profile the bundled network; report in out/demo/report.html"
	@echo "make demo NPU=1   the same with Qualcomm's NPU; installs onnxruntime-qnn (Qualcomm AI Stack License)"
	@echo "make test    set up, then run the test suite"
	@echo "make check   set up, then formatting, lint, types and layers"
	@echo "make format  format and mend what ruff can"
	@echo "make docs    write the tables of the documents from results/*.json"
	@echo "make lock    write constraints.txt from what is installed in .venv"
	@echo "make clean   remove caches and outputs (distclean: .venv too)"

setup: $(RUN)
	@echo "ready: source $(VENV)/bin/activate, then edge-sr --help"

demo: $(RUN) $(if $(NPU),$(QNN))
	$(BIN)/edge-sr demo $(if $(NPU),--npu) $(DEMO_ARGS)
	@[ -n "$(NPU)" ] || echo "with Qualcomm's NPU, compiled and emulated: make demo NPU=1 (installs its libraries; licence in docs/npu.md)"

test: $(DEV)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: $(RUN)
	$(BIN)/python -m scripts.device_chart
	$(BIN)/python scripts/render_docs.py

lock: $(DEV)
	$(BIN)/python scripts/lock.py > constraints.txt.new
	mv constraints.txt.new constraints.txt

clean:
	rm -rf build dist out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)

# A stamp is touched only when its step is complete, so an interrupted set-up is taken up again by the next make.
$(TORCH): constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "expected python3.11 on PATH, got none: install it, or make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v != (3, 11) and \
	  "expected Python 3.11, got %d.%d: install it, or name it with make PYTHON=/path/to/python3.11" % v)'
	@echo "set-up 1/3: $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@echo "set-up 2/3: torch"
	@# Alone and first: asked for beside others, pip may take a build with several GB of CUDA packages.
	@$(PIP) 'torch==2.13.0' setuptools $(QUIETLY)
	@touch $@

$(RUN): $(TORCH) pyproject.toml
	@echo "set-up 3/3: the three toolchains (about 2.5 GB on disk; minutes)"
	@$(PIP) --no-build-isolation -e '.[all]' $(QUIETLY)
	@# Its pins contradict the other toolchains'; see pyproject.toml. The version is that of constraints.txt.
	@$(PIP) --no-deps tosa-tools $(QUIETLY)
	@touch $@

$(QNN): $(RUN)
	@echo "set-up: Qualcomm's compiler and emulator (onnxruntime-qnn, Qualcomm AI Stack License)"
	@$(PIP) --no-build-isolation -e '.[qnn]' $(QUIETLY)
	@touch $@

$(DEV): $(RUN)
	@echo "set-up: test and lint tools"
	@$(PIP) --no-build-isolation -e '.[dev]' $(QUIETLY)
	@touch $@
