# Needs Python >= 3.11 with pip, and make. Everything else is installed into .venv, from the locks in requirements/.

PYTHON ?=
PY := .venv/bin/python
JOBS ?= 2
ARGS ?=

SOUND := $(shell sh .ci/venv sound && echo yes)
ifneq ($(SOUND),yes)
BROKEN := broken
endif

.PHONY: help demo test faults faults-long mutations check bench lock schema clean broken

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: .venv/.dev ## the shop example on embedded PostgreSQL, killed half way, and every order accounted for
	@$(PY) examples/shop/demo.py $(ARGS)

test: .venv/.dev ## the whole test suite (ARGS="-k name" for a part, JOBS=4 for more processes)
	@$(PY) -m pytest -n $(JOBS) $(ARGS)

faults: .venv/.dev ## kill, stall, cut, starve and crash everything while jobs flow (ARGS="--only F1,F5 --size 0.1")
	@PYTHONPATH=src $(PY) -m tests.faults $(ARGS)

faults-long: .venv/.dev ## the same for HOURS=n, with another seed each round
	@PYTHONPATH=src $(PY) -m tests.faults --hours $(or $(HOURS),1) $(ARGS)

mutations: .venv/.dev ## plant known bugs in a copy, one at a time: the tests must find each
	@$(PY) -m tests.faults.mutations $(ARGS)

check: .venv/.check ## format, lint, import rules, types
	@sh .ci/check

bench: .venv/.dev ## all benchmarks, written to bench/RESULTS.md (about 22 minutes; ARGS="--only queue,state --scale 0.1")
	@$(PY) -m bench $(ARGS)

schema: .venv/.dev ## write schema.sql from the migrations
	@CHIMPBASE_WRITE_SCHEMA=1 $(PY) -m pytest -q -p no:randomly tests/schema/test_dump.py -k schema_file $(ARGS)

lock: .venv/.check ## choose the newest allowed versions of every dependency and write the locks
	@sh .ci/lock $(ARGS)

clean: ## remove what can be made again (not the database in .chimpbase)
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.dev: pyproject.toml requirements/dev.txt .ci/venv $(BROKEN)
	@PYTHON="$(PYTHON)" sh .ci/venv dev

.venv/.check: .venv/.dev requirements/check.txt
	@PYTHON="$(PYTHON)" sh .ci/venv check
