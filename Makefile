# `make` lists the targets. They use the virtual environment .venv, which is created when it is needed.

# The first Python that is new enough; `make run PYTHON=python3.12` selects another one.
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
endif
VENV ?= .venv
BIN := $(VENV)/bin

# The names of these stamp files contain checksums of the requirements: changed requirements are installed again.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
INSTALLED := $(VENV)/python-$(VERSION)
RUNTIME := $(INSTALLED)-runtime-$(shell cat pyproject.toml requirements.txt | cksum | tr ' ' -)
DEVELOPMENT := $(INSTALLED)-development-$(shell cat pyproject.toml requirements-dev.txt | cksum | tr ' ' -)
$(RUNTIME): LOCK_FILE = requirements.txt
$(DEVELOPMENT): LOCK_FILE = requirements-dev.txt

LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras \
	--no-emit-index-url --no-emit-find-links --no-header --no-annotate pyproject.toml

# Without bytecode, each of the many processes of the tests would compile the project again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test test-full test-clock bench lint format check-migrations describe-migrations lock clean

help: ## list the targets
	@echo "make run    starts the service on http://127.0.0.1:8000; make test runs the tests."
	@echo
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /|/' | awk -F'|' '{ printf "  make %-20s %s\n", $$1, $$2 }'
	@echo
	@echo "ARGS passes options to the command of a target: make run ARGS='--port 8001'"

run: $(RUNTIME) ## start database and health API with a sample salon; Ctrl-C stops both
	@$(BIN)/frontdesk up $(ARGS)

test: $(DEVELOPMENT) ## run the tests, on an embedded PostgreSQL or on TEST_DATABASE_URL
	@$(BIN)/python -m pytest -n 4 --dist loadgroup -m "not full" $(ARGS)

test-full: $(DEVELOPMENT) ## run all tests, including the long ones, and test-clock
	@$(BIN)/python -m pytest -n 4 --dist loadgroup $(ARGS)
	@$(BIN)/python .ci/test_with_shifted_clock.py $(ARGS)

test-clock: $(DEVELOPMENT) ## run the tests on other dates, such as the end of a year
	@$(BIN)/python .ci/test_with_shifted_clock.py $(ARGS)

bench: $(DEVELOPMENT) ## run the benchmarks and print them as one table
	@$(BIN)/python -m benchmarks $(ARGS)

lint: $(DEVELOPMENT) ## run ruff and mypy, and check the language of all texts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python .ci/check_language.py

format: $(DEVELOPMENT) ## format the code with ruff
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

check-migrations: $(DEVELOPMENT) ## run the migrations on an empty server; check for drift and unsafe SQL
	@$(BIN)/python .ci/on_new_server.py sh -c '$(BIN)/alembic upgrade head && $(BIN)/alembic check'
	@$(BIN)/python -m pytest -q tests/migrations/test_lint.py

describe-migrations: $(DEVELOPMENT) ## write alembic/shapes.json, the schema after each migration
	@$(BIN)/python .ci/on_new_server.py $(BIN)/python .ci/describe_chain.py

lock: $(DEVELOPMENT) ## pin the requirements of pyproject.toml; ARGS=--upgrade selects the newest versions
	@$(LOCK) --extra build --extra s3 $(ARGS) --output-file requirements.txt
	@$(LOCK) --extra build --extra s3 --extra dev --constraint requirements.txt $(ARGS) --output-file requirements-dev.txt

clean: ## remove generated files, but not the data in .frontdesk/
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Only packages that are pinned with a hash are installed, and then the project itself.
$(RUNTIME) $(DEVELOPMENT):
	@test -n "$(VERSION)" || { echo "Python 3.11 or newer is required; set PYTHON to its path" >&2; exit 2; }
	@$(PYTHON) .ci/install.py $(VENV) $(LOCK_FILE)
	@touch $@
