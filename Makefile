# Every target sets up .venv by itself; all it needs is Python 3.11 or later. See CONTRIBUTING.md.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Which MLX: the Metal build comes with mlx on macOS; elsewhere the CPU build, or `make setup EXTRA=cuda`.
EXTRA ?= $(if $(filter Darwin,$(shell uname -s)),,cpu)
STAMP := $(VENV)/.stamp-$(or $(EXTRA),metal)
comma := ,

.PHONY: setup serve test lint format bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Quince needs Python 3.11 or later; run make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,vision$(if $(EXTRA),$(comma)$(EXTRA))]'
	rm -f $(VENV)/.stamp-*
	touch $@

serve: $(STAMP)
	$(BIN)/quince serve $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python -m benchmarks.serving $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist
