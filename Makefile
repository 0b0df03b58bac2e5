# Every target sets up .venv by itself; all it needs is Python 3.11 or later. See CONTRIBUTING.md.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Which MLX: the Metal build comes with mlx on macOS; elsewhere the CPU build, or `make setup EXTRA=cuda`.
EXTRA ?= $(if $(filter Darwin,$(shell uname -s)),,cpu)
STAMP := $(VENV)/.stamp-$(or $(EXTRA),metal)
comma := ,

.PHONY: setup serve test lint format bench wheel check-wheel binary check-binary clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Quince needs Python 3.11 or later; run make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,vision$(if $(EXTRA),$(comma)$(EXTRA))]'
	rm -f $(VENV)/.stamp-*
	touch $@

serve: $(STAMP)
	$(BIN)/quince serve $(ARGS)

# In two processes: most of the tests' time is one process's wait for another. A file's tests stay together, because its
# servers do; files keep their order, in which small ones are last. ARGS='-n 0 ...' keeps to one process, as --pdb needs.
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python docs/generate.py

bench: $(STAMP)
	$(BIN)/python -m benchmarks.serving $(ARGS)

# The wheel and the source distribution, in dist/.
wheel: $(STAMP)
	rm -f dist/quince-*
	$(BIN)/python -m hatchling build -d dist

# In a new environment outside the repository; downloads what the wheel needs.
check-wheel: wheel
	$(BIN)/python packaging/check_wheel.py dist/quince-*.whl --extra '$(EXTRA)'

# One file that needs no Python: dist/quince.
binary: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[build]'
	$(BIN)/pyinstaller --noconfirm --log-level WARN --distpath dist --workpath build packaging/quince.spec

check-binary:
	packaging/check_binary.sh dist/quince

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
