# From a clone to a result: `make quickstart`. From a clone to a tested clone: `make test`. Both live in .venv and need no root.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
FFCV := .venv/.ffcv

.PHONY: help setup ffcv quickstart test lint slurm-up slurm-down clean

help:  ## show these lines
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

setup: $(READY) ffcv  ## create .venv and install everything into it; quick when nothing has changed

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "setup: needs Python 3.10 or newer as '$(PYTHON)'; install one, or name yours: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "setup: '$(PYTHON)' cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing into .venv; the first time this fetches torch with its CUDA libraries, about 5.5 GB."
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev,deepspeed,dashboard]'
	@# the tests compare attacks with torchattacks, whose pins (requests 2.25) nothing else here can live with
	$(BIN)/python -m pip install --constraint constraints.txt --no-deps torchattacks
	@touch $(READY)

ffcv: $(READY)  # compiles itself against OpenCV and libjpeg-turbo; without it sets of images are held in memory
	@[ $(FFCV) -nt $(READY) ] && exit 0; absent=; \
	for library in opencv4 libturbojpeg; do pkg-config --exists $$library 2>/dev/null || absent="$$absent $$library"; done; \
	if [ -n "$$absent" ]; then \
	  echo "setup: goes on without FFCV, as pkg-config does not find:$$absent (docs/data.md says how to install them)"; \
	elif $(BIN)/python -m pip install --constraint constraints.txt --editable '.[ffcv]'; then \
	  touch $(FFCV); \
	else \
	  echo "setup: goes on without FFCV, which could not be compiled; docs/data.md names what it needs"; \
	fi

quickstart: setup  ## pre-train, fine-tune and evaluate on the images in this repository; ends with a table and a report
	$(BIN)/dist-advss launch experiment=quickstart cluster=inline out=runs/quickstart

test:  ## install system packages that tests use (root only), set up, check style and types, run every test
	@bash tests/system_packages.sh
	@$(MAKE) --no-print-directory setup
	@$(MAKE) --no-print-directory lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: setup  ## style and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slurm-up:  ## a real Slurm on this machine, four nodes, in /tmp/dist_advss-devcluster (root only; installs what it needs)
	@$(PYTHON) -m slurm.devcluster up

slurm-down:  ## end it, with every job on it
	@$(PYTHON) -m slurm.devcluster down

clean:  ## remove caches and build products; runs/ and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
