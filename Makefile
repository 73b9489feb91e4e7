# One environment, made when it is missing; CPU builds of torch are pinned in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := runs/demo
# Of training, for both models alike.
DEMO_MINUTES ?= 2

.PHONY: setup demo fmt lint types test ledger bench clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(READY)

# A few-step generator and the diffusion model that it is compared with, trained side by side on one core each.
demo: export OMP_NUM_THREADS := 1
demo: $(READY)
	rm -rf $(DEMO)
	mkdir -p $(DEMO)
	$(BIN)/suffuse train digits-diffusion out=$(DEMO)/diffusion minutes=$(DEMO_MINUTES) > $(DEMO)/diffusion.log 2>&1 & \
	baseline=$$!; \
	$(BIN)/suffuse train digits-ict out=$(DEMO)/few-step minutes=$(DEMO_MINUTES) || { kill $$baseline; exit 1; }; \
	wait $$baseline || { cat $(DEMO)/diffusion.log; exit 1; }
	$(BIN)/suffuse compare $(DEMO)/few-step $(DEMO)/diffusion --nfe 1,2,5,20 --n 1000
	$(BIN)/suffuse eval $(DEMO)/few-step
	@echo "Look at $(DEMO)/few-step/report.html; the sheet alone is $(DEMO)/few-step/comparison-samples.png"

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
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

# The tables in the pages, made anew from the recorded results.
ledger: $(READY)
	$(BIN)/python -m suffuse.claims.pages README.md docs/techniques/*.md docs/ledger.md

bench: $(READY)
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) runs .mypy_cache .pytest_cache .ruff_cache
