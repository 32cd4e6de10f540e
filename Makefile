# `make quickstart` takes you from a clone to a result, `make test` to a tested clone. Both install into .venv and need no root.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
FFCV := .venv/.ffcv

.PHONY: help setup ffcv quickstart test test-avx2 gpu-check benchmarks lint slurm-up slurm-down clean

help:  ## list the commands
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

setup: $(READY) ffcv  ## create .venv and install everything into it; fast if nothing has changed

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "setup: '$(PYTHON)' is not Python 3.10 or newer; install one, or name another: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "setup: '$(PYTHON)' cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv, or name another Python: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing into .venv. The first time this downloads torch with its CUDA libraries, about 5.5 GB."
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev,deepspeed,dashboard]'
	@# The tests compare attacks with torchattacks and pyautoattack. The pins of the first (requests 2.25) conflict with the other packages, so they come without.
	$(BIN)/python -m pip install --constraint constraints.txt --no-deps torchattacks pyautoattack
	@touch $(READY)

ffcv: $(READY)  # pip compiles FFCV against OpenCV and libjpeg-turbo. Without it, images are held in main memory.
	@[ $(FFCV) -nt $(READY) ] && exit 0; absent=; \
	for library in opencv4 libturbojpeg; do pkg-config --exists $$library 2>/dev/null || absent="$$absent $$library"; done; \
	if [ -n "$$absent" ]; then \
	  echo "setup: continues without FFCV, because pkg-config does not find:$$absent (docs/data.md says how to install them)"; \
	elif $(BIN)/python -m pip install --constraint constraints.txt --editable '.[ffcv]'; then \
	  touch $(FFCV); \
	else \
	  echo "setup: continues without FFCV, which did not compile; docs/data.md lists what it needs"; \
	fi

quickstart: setup  ## pre-train, fine-tune and evaluate on the included images; ends with a table and a report
	$(BIN)/dist-advss launch experiment=quickstart cluster=inline out=runs/quickstart

test:  ## set up, check style and types, run every test (as root: also install system packages that tests use)
	@bash tests/system_packages.sh
	@$(MAKE) --no-print-directory setup
	@$(MAKE) --no-print-directory lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-avx2: setup  ## run the tests of everything that computes, as on a processor without AVX-512
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 \
	  tests/attacks tests/engines tests/evaluation tests/models tests/objectives tests/training

gpu-check: setup  ## check and measure one GPU in eight minutes (benchmarks/gpu/carry.py takes it to a machine that has only torch)
	$(BIN)/python -m benchmarks.gpu --json gpu.json

benchmarks: setup  ## run the benchmarks that need no GPU, three times in turn, and draw them on one page: benchmarks.html
	$(BIN)/python -m benchmarks

lint: setup  ## check style and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slurm-up:  ## start a real Slurm on this machine, four nodes, in /tmp/dist_advss-devcluster (root only; installs what it needs)
	@$(PYTHON) -m slurm.devcluster up

slurm-down:  ## stop that Slurm, with every job on it
	@$(PYTHON) -m slurm.devcluster down

clean:  ## remove caches and build products; keeps runs/ and .venv
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
