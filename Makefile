# One environment, made when it is missing; CPU builds of torch are pinned in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := runs/demo
DEMO_STEPS ?= 1200

.PHONY: setup demo fmt lint types test ledger bench clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(READY)

demo: $(READY)
	rm -rf $(DEMO)
	$(BIN)/suffuse train digits-etsdm out=$(DEMO) steps=$(DEMO_STEPS)
	$(BIN)/suffuse sample $(DEMO) --n 100 --time
	$(BIN)/suffuse eval $(DEMO)
	$(BIN)/suffuse compare $(DEMO) --nfe 3,5,10,20,40 --solver ddim,heun,dpmpp --n 1000
	@echo "Look at $(DEMO)/report.html; the samples alone are $(DEMO)/evaluation/samples.png"

fmt: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

test: lint types
	$(BIN)/python -m pytest

# The tables in the pages, made anew from the recorded results.
ledger: $(READY)
	$(BIN)/python -m suffuse.claims.pages README.md docs/techniques/*.md docs/ledger.md

bench: $(READY)
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) runs .mypy_cache .pytest_cache .ruff_cache
