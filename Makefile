# The contributor's manual: `make` lists the targets.
#
#   PYTHON=python3.12     the interpreter that makes .venv (3.11 or newer)
#   TORCH_INDEX=URL       where pip finds torch. On Linux the default index serves the CUDA build (several GB);
#                         https://download.pytorch.org/whl/cpu serves the small CPU build of the same version.
#   WORKERS=2             test processes
#   ARGS="-k shapley"     more arguments for pytest

PYTHON ?= python3
TORCH_INDEX ?=
WORKERS ?= 2
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
AUDIT := $(VENV)/bin/pellucid audit

.PHONY: help demo test check coverage wheel docs bench repro clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    audit two shipped networks on real images, compare them, say where the report is"
	@echo "make test    set up and run the tests"
	@echo "make check   format, lint, strict types, house tests: before each commit"
	@echo "make coverage  run the tests and tell which lines they leave out; fails under 90 %"
	@echo "make wheel   install the wheel into empty environments, without extras and with each; takes a while"
	@echo "make docs    build the documentation; warnings are errors"
	@echo "make bench   measure speed; takes a while, wants a quiet machine"
	@echo "make repro   make the shipped networks and reproductions again; takes hours"
	@echo "make clean   remove what the other targets made, but not .venv"

# -- setting up: a stamp per set of extras, so that the second call does not install again ------------------------

$(VENV)/.made: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Pellucid needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "setting up $(VENV) ($$($(PYTHON) --version)); the first time takes a few minutes"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) --upgrade pip
	@$(INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml
	@$(INSTALL) --editable ".[test,peers]"
	@touch $@ $(VENV)/.run

$(VENV)/.check: $(VENV)/.test
	@$(INSTALL) --editable ".[dev]"
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	@$(INSTALL) --editable ".[docs]"
	@touch $@

# -- what a newcomer types ----------------------------------------------------------------------------------------

demo: $(VENV)/.run
	$(AUDIT) fashion-standard fashion-mnist --surrogate fashion-robust --out demo/standard --resume
	$(AUDIT) fashion-robust fashion-mnist --surrogate fashion-standard --out demo/robust --resume
	$(VENV)/bin/pellucid compare demo/standard demo/robust --out demo/compare
	@echo
	@echo "Open the reports in a browser:"
	@for page in compare standard robust; do echo "  $(CURDIR)/demo/$$page/index.html"; done

test: $(VENV)/.test
	$(ONE_THREAD) $(PY) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# -- what a contributor types -------------------------------------------------------------------------------------

check: $(VENV)/.check
	$(PY) -m ruff format --check
	$(PY) -m ruff check
	$(PY) -m mypy
	$(ONE_THREAD) $(PY) -m pytest -q tests/house $(ARGS)

coverage: $(VENV)/.test
	$(ONE_THREAD) $(PY) -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term:skip-covered $(ARGS)

wheel: $(VENV)/.test
	$(ONE_THREAD) $(PY) -m pytest -q -m slow tests/house/test_packaging.py $(ARGS)

docs: $(VENV)/.docs
	$(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

bench: $(VENV)/.test
	@for script in $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(ONE_THREAD) $(PY) $$script || exit 1; done

repro: $(VENV)/.test
	@for recipe in recipes/*.toml; do \
		name=$$(basename $$recipe .toml); \
		echo "== $$name"; $(VENV)/bin/pellucid train $$recipe --out runs/$$name || exit 1; \
	done
	@for script in $(wildcard reproductions/*/run.py); do echo "== $$script"; $(PY) $$script || exit 1; done

clean:
	rm -rf build dist demo docs/_build .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
