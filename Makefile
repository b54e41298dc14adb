# Each target does its own set-up from nothing; once that is done it takes no time.

PYTHON ?= python3
# PINS= installs the newest releases instead of the tested ones.
PINS ?= -c constraints.txt
PYTEST_ARGS ?=
# As many processes as cores, each with one thread; a file stays whole, because its fixtures may be expensive.
PYTEST_WORKERS ?= --numprocesses=auto --maxprocesses=4 --dist=loadfile

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# What Qt and OpenGL load at run time, and a virtual display for machines that have none.
DISPLAY_PACKAGES := xvfb xauth libdbus-1-3 libegl1 libfontconfig1 libgl1 libglib2.0-0 libxcb-cursor0 \
	libxcb-icccm4 libxcb-keysyms1 libxcb-shape0 libxkbcommon-x11-0

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench docs display-packages

help:
	@echo "make demo     segment a synthetic CT torso from boxes and report the accuracy"
	@echo "make test     run the tests (PYTEST_ARGS='tests/test_volume.py -k nifti' runs some of them)"
	@echo "make lint     check style, types, the direction of imports and spelling"
	@echo "make format   put the source into the project's style"
	@echo "make bench    measure speed, into benchmark_results"
	@echo "make docs     build the documentation into docs/_build/html"

demo: $(VENV)/.runtime
	$(BIN)/napari-medsam demo

# Without a display the tests that need one are skipped, and say so: hence no failure where packages are missing.
test: $(VENV)/.group-test
	@sh scripts/debian_packages.sh "tests with a window" $(DISPLAY_PACKAGES) || true
	@set --; if command -v xvfb-run >/dev/null; then \
		set -- xvfb-run --auto-servernum --server-args="-screen 0 1920x1200x24"; fi; \
	OMP_NUM_THREADS=1 "$$@" $(BIN)/python -m pytest $(PYTEST_WORKERS) $(PYTEST_ARGS)

lint: $(VENV)/.group-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell

format: $(VENV)/.group-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.group-test
	@mkdir -p benchmark_results
	$(BIN)/python benchmarks/speed_import.py
	$(BIN)/python benchmarks/gzip_level.py
	$(BIN)/python benchmarks/latency.py --out benchmark_results/latency.json
	$(BIN)/python benchmarks/speed_sam.py --device cpu --quick --out benchmark_results

docs: $(VENV)/.group-docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --builder html docs docs/_build/html

display-packages:
	@sh scripts/debian_packages.sh "a window" $(DISPLAY_PACKAGES)

# Debian's python3 cannot make an environment until python3-venv is there.
$(VENV)/.created:
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null \
		|| sh scripts/debian_packages.sh "a virtual environment" python3-venv
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"
	@touch $@

# The manifest is copied into the environment, so a change of it is a reason to install again.
$(VENV)/.runtime: $(VENV)/.created pyproject.toml constraints.txt napari.yaml
	@echo "Installing napari-medsam and what it needs into $(VENV) (some minutes the first time)"
	$(PIP) install --quiet $(PINS) --editable ".[qt]"
	@touch $@

$(VENV)/.group-%: $(VENV)/.runtime
	$(PIP) install --quiet $(PINS) --group $*
	@touch $@
