# make demo: every step on practice scans      make test: every check and test
# make quick: the tests to run all day                make bench [JSON=bench.json], make docs
# make lowest: a small journey with the oldest dependencies that pyproject.toml allows; needs the package index
# Without a GPU, install the CPU build of torch; see "CPU and CUDA" in the README.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := demo
LOWEST := .lowest
LOWEST_PYTHON ?= python3.11
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
SOURCES := $(shell find face pipeline cli training -name '*.py')

.PHONY: demo test quick lint bench docs lowest clean

# The package is installed, not linked, so that the tests run what users get.
$(VENV)/run: pyproject.toml constraints.txt $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) '.[train]'
	touch $@

$(VENV)/develop: $(VENV)/run
	$(PIP) '.[train,finetune,nnunet,dev,docs,bench]'
	touch $@

demo: $(VENV)/run
	rm -rf $(DEMO)
	$(BIN)/genesis-prep demo $(DEMO)

# In two processes, so that one works while the other waits for commands, kills and servers.
test: lint docs
	$(BIN)/pytest -n 2 --dist worksteal

quick: $(VENV)/develop
	$(BIN)/pytest -m 'not full'

lint: $(VENV)/develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/develop
	$(BIN)/sphinx-build --quiet -W --keep-going docs docs/_build/html

bench: $(VENV)/develop
	$(BIN)/python benchmarks/run.py $(if $(JSON),--json $(JSON))

# The core alone: no torch. `>=` becomes `==`.
lowest:
	rm -rf $(LOWEST)
	$(LOWEST_PYTHON) -m venv $(LOWEST)
	$(LOWEST_PYTHON) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
		| sed 's/>=/==/' | tee $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/lowest.txt .
	$(LOWEST)/bin/python -m pip check
	$(LOWEST)/bin/genesis-prep phantom $(LOWEST)/scans --scans 3 --shape 128,128,64
	$(LOWEST)/bin/genesis-prep extract-cubes $(LOWEST)/scans $(LOWEST)/cubes.zarr --size 64,64,32 --border 0,0,0 \
		--cubes-per-scan 4 --workers 2
	$(LOWEST)/bin/genesis-prep degrade $(LOWEST)/cubes.zarr $(LOWEST)/pairs.zarr --variants 2 --workers 2
	$(LOWEST)/bin/genesis-prep verify $(LOWEST)/pairs.zarr --replay 8
	$(LOWEST)/bin/genesis-prep preview $(LOWEST)/pairs.zarr $(LOWEST)/pairs.html
	$(LOWEST)/bin/genesis-prep info $(LOWEST)/pairs.zarr

clean:
	rm -rf $(VENV) $(LOWEST) $(DEMO) build dist docs/_build docs/_pictures
