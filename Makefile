# The two commands of a new user: `make demo` and `make test`. Both need Python 3.11 to 3.13 with pip, nothing else.
PYTHON ?= python3
VENV ?= .venv
TEST_VENV ?= .venv-test
DEMO ?= demo
DATA ?=

.PHONY: help demo test soak lint format clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(VENV)/installed: setup.py medmt5/__init__.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[train]'
	touch $@

demo: $(VENV)/installed  ## the whole road on the sample (or DATA=folder), into ./demo
	$(VENV)/bin/medmt5 demo --output $(DEMO) $(if $(DATA),--data $(DATA))

test:  ## a fresh virtual environment, ruff, mypy, the whole suite
	rm -rf $(TEST_VENV)
	$(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/python -m pip install --quiet --upgrade pip
# --no-compile: Python compiles what it imports; pip would compile all 23,000 files first, on one core.
	$(TEST_VENV)/bin/python -m pip install --quiet --no-compile --editable '.[test]'
	$(TEST_VENV)/bin/ruff check .
	$(TEST_VENV)/bin/ruff format --check .
	$(TEST_VENV)/bin/mypy & types=$$!; $(TEST_VENV)/bin/python -m pytest tests/test_layers.py && wait $$types
	$(TEST_VENV)/bin/python -m pytest --ignore=tests/test_layers.py -n 3 --dist loadfile --no-loadscope-reorder --durations=30

soak:  ## kills a run 25 times and compares it with one left alone (uses the environment of `make test`)
	PYTHONPATH=. $(TEST_VENV)/bin/python benchmarks/soak.py --kills 25

format:  ## ruff, in place (uses the environment of `make test`)
	$(TEST_VENV)/bin/ruff check --fix .
	$(TEST_VENV)/bin/ruff format .

clean:  ## removes what demo and test made
	rm -rf $(DEMO) $(VENV) $(TEST_VENV)
