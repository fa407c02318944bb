# make demo, make test and the rest install what they need into .venv, from pinned constraints.
# PYTHON=python3.12 picks another interpreter; PIP_FLAGS goes to pip (such as another index for torch).
PYTHON    ?= python3
PIP_FLAGS ?=
BIN       := .venv/bin
MARK      ?= not data and not slow
DEMO      ?=

.PHONY: install demo test slow faults accuracy lint bench bench-peers clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "distgen needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/distgen build shards/recipes/ecoli536.toml
	$(BIN)/distgen verify shards/store/ecoli536.zarr
	rm -rf runs/quickstart
	$(BIN)/distgen train launch/runs/quickstart.toml $(DEMO) --out runs/quickstart
	$(BIN)/distgen evaluate runs/quickstart

test: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "$(MARK)"

# Long tests but those of the two below.
slow: install
	$(BIN)/python -m pytest -m "slow" --ignore tests/faults --ignore tests/accuracy

faults: install
	$(BIN)/python -m pytest -m "slow or not slow" tests/faults

accuracy: install
	$(BIN)/python -m pytest -m "slow" tests/accuracy

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/python -m benchmarks.build
	$(BIN)/python -m benchmarks.tables
	$(BIN)/python -m benchmarks.signal
	$(BIN)/python -m benchmarks.collection
	$(BIN)/python -m benchmarks.homology
	$(BIN)/python -m benchmarks.encode
	$(BIN)/python -m benchmarks.stem
	$(BIN)/python -m benchmarks.loader
	$(BIN)/python -m benchmarks.stream
	$(BIN)/python -m benchmarks.train
	$(BIN)/python -m benchmarks.scaling

# Other libraries need older packages than CI installs: an environment of their own.
bench-peers:
	$(PYTHON) -m venv .venv-peers
	PIP_CONSTRAINT=benchmarks/peers/constraints.txt .venv-peers/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --editable '.[dev,peers]'
	.venv-peers/bin/python -m benchmarks.loader packed one-hot --peers

clean:
	rm -rf .venv .venv-peers runs shards/store
