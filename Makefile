# `make` lists the targets. Everything happens in .venv, which is made when it is needed.

# The first Python that is new enough; `make run PYTHON=python3.12` takes that one.
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
endif
VENV ?= .venv
BIN := $(VENV)/bin

# A stamp's name says what is installed, so nothing is installed twice and nothing old is kept.
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
	@echo "make run    starts everything on http://127.0.0.1:8000; make test runs the tests."
	@echo
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /|/' | awk -F'|' '{ printf "  make %-20s %s\n", $$1, $$2 }'
	@echo
	@echo "Options of the commands behind them go into ARGS: make run ARGS='--port 8001'"

run: $(RUNTIME) ## database, migrations, sample salon and health API; Ctrl-C stops everything
	@$(BIN)/frontdesk up $(ARGS)

test: $(DEVELOPMENT) ## the tests, on an embedded PostgreSQL or on TEST_DATABASE_URL
	@$(BIN)/python -m pytest -n 4 --dist loadgroup -m "not full" $(ARGS)

test-full: $(DEVELOPMENT) ## the tests with those of sizes and repetitions that need longer, and test-clock
	@$(BIN)/python -m pytest -n 4 --dist loadgroup $(ARGS)
	@$(BIN)/python .ci/test_with_shifted_clock.py $(ARGS)

test-clock: $(DEVELOPMENT) ## the tests on other dates: in 400 days, before a year's end and the like
	@$(BIN)/python .ci/test_with_shifted_clock.py $(ARGS)

bench: $(DEVELOPMENT) ## the benchmarks, as one table
	@$(BIN)/python -m benchmarks $(ARGS)

lint: $(DEVELOPMENT) ## ruff, mypy and the check of the language of texts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python .ci/check_language.py

format: $(DEVELOPMENT) ## let ruff put the code in order
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

check-migrations: $(DEVELOPMENT) ## the chain on an empty server, no drift from the models, no unsafe SQL
	@$(BIN)/python .ci/on_new_server.py sh -c '$(BIN)/alembic upgrade head && $(BIN)/alembic check'
	@$(BIN)/python -m pytest -q tests/migrations/test_lint.py

describe-migrations: $(DEVELOPMENT) ## write down the tables after each step, for `frontdesk db adopt`
	@$(BIN)/python .ci/on_new_server.py $(BIN)/python .ci/describe_chain.py

lock: $(DEVELOPMENT) ## pin what pyproject.toml asks for; ARGS=--upgrade takes the newest
	@$(LOCK) --extra build --extra s3 $(ARGS) --output-file requirements.txt
	@$(LOCK) --extra build --extra s3 --extra dev --constraint requirements.txt $(ARGS) --output-file requirements-dev.txt

clean: ## remove what can be made again; the data under .frontdesk/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Only what is pinned with a hash is installed; the project itself comes last and needs nothing more.
$(RUNTIME) $(DEVELOPMENT):
	@test -n "$(VERSION)" || { echo "Python 3.11 or newer is needed; name it with PYTHON=" >&2; exit 2; }
	@$(PYTHON) .ci/install.py $(VENV) $(LOCK_FILE)
	@touch $@
