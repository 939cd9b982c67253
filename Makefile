# `make demo` and `make test` work on a fresh clone with Python 3.11+, make and a C and C++ compiler; the tests
# with Chromium and bubblewrap too, which apt.txt names.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= demo-out
PAIR := qwen2.5-coder

.PHONY: demo test lint types unit gpu-smoke bench measure readme figures figures-data figures-check calibration clean

$(BIN)/python:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

# The demo needs llama.cpp only; the tests need everything.
.venv/.edge: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[edge]'
	touch $@

.venv/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ .venv/.edge

demo: .venv/.edge
	$(BIN)/cuhlm-opt pairs fetch $(PAIR)
	$(BIN)/cuhlm-opt calibrate --pair $(PAIR) --prompts stdlib --prompts general --limit 8 --max-tokens 24 --batch-size 4 --exact-share 0.1 --out $(OUT)/calibration --resume
	$(BIN)/cuhlm-opt solve --bandwidth 10MHz --calibration $(OUT)/calibration --domain code --policy budget --out $(OUT)/operating-point.json
	$(BIN)/cuhlm-opt decode --pair $(PAIR) --operating-point $(OUT)/operating-point.json --max-tokens 64 \
		"Write a Python function that returns the n-th Fibonacci number."
	@echo
	@echo "demo done. Left in $(OUT):"
	@echo "  calibration/records.parquet     one row per position, both models"
	@echo "  calibration/calibration.json    the correlation fit, measured times, provenance"
	@echo "  operating-point.json            what to run on a 10 MHz uplink, and why"
	@echo "The shipped calibration rests on more prompts: $(BIN)/cuhlm-opt solve --bandwidth 10MHz"

test: lint types figures-check unit

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/.dev
	$(BIN)/mypy

unit: .venv/.dev
	$(BIN)/python figures/readme_tables.py --check
	$(BIN)/python -m pytest -n auto

# A hub pair on CUDA, a few minutes. Unverified: it has not run on a GPU yet.
gpu-smoke: .venv/.dev
	$(BIN)/python tests/long/gpu_smoke.py --out $(OUT)/gpu-smoke

bench: .venv/.dev
	@for benchmark in tests/benchmarks/bench_*.py; do $(BIN)/python $$benchmark || exit 1; done

# The long evidence: some hours on two cores. README tables are made from what it leaves in figures/measured.
measure: .venv/.dev
	CUHLM_HYPOTHESIS=long $(BIN)/python -m pytest -n auto $$(grep -rl "@given" tests)
	$(BIN)/python tests/long/measure_coverage.py --calibration $(PAIR) --out figures/measured/coverage.json
	$(BIN)/python tests/long/measure_transfer.py --calibration $(PAIR) --calibration qwen2.5-coder-q2 --calibration smollm2-q2 --out figures/measured/transfer.json
	$(BIN)/python tests/long/measure_contexts.py --calibration $(PAIR) --calibration smollm2-q2 --prompts 50 --max-bias 0.05 --work $(OUT)/contexts --out figures/measured/contexts.json
	$(BIN)/python tests/long/measure_adaptive.py --out figures/measured/adaptive.json
	$(BIN)/python tests/long/measure_decodes.py --out figures/measured/decodes.json
	$(BIN)/python tests/long/measure_accuracy.py --work figures/measured/accuracy --threads 1 --out figures/measured/accuracy.json
	$(BIN)/python tests/long/measure_link.py --out figures/measured/link.json
	$(BIN)/python tests/long/measure_faults.py --frames 100000 --kills 20 --out figures/measured/faults.json
	$(BIN)/python tests/long/measure_mutations.py --out figures/measured/mutations.json
	$(BIN)/cuhlm-opt calibrate --pair smollm2-q2 --prompts general --prompts stdlib --limit 40 --max-tokens 48 --out $(OUT)/smollm2-q2 --resume
	$(BIN)/python tests/long/measure_speculation.py --calibration $(OUT)/smollm2-q2 --skip 40 --prompts 6
	$(BIN)/python tests/long/measure_speculation.py --calibration $(PAIR) --skip 400 --prompts 14 --tokens 32 --lengths 2,4,8

# Figures and tables for a paper, from recorded results: under two minutes. Captions, tables and the manifest are committed.
figures: .venv/.dev
	$(BIN)/cuhlm-opt figures --out figures/out

# The sweeps behind them: a few minutes; what is up to date stays.
figures-data: .venv/.dev
	$(BIN)/cuhlm-opt figures-data --out figures

# `make test` fails where one is stale: another script, style or input than the manifest's.
figures-check: .venv/.dev
	$(BIN)/cuhlm-opt figures --check --out figures/out

# The README's tables come from the shipped records; `make test` fails where one is stale.
readme: .venv/.dev
	$(BIN)/python figures/readme_tables.py

# Records the shipped sets again, into $(OUT)/recorded: about three hours on two cores; resumes where it was stopped. Threads are part of
# what a set is, since kernels split sums by them. The measured times are this machine's.
calibration: calibration-$(PAIR) calibration-qwen2.5-coder-q2 calibration-smollm2-q2

calibration-$(PAIR): LIMIT := 400
calibration-%: LIMIT := 100
calibration-%: .venv/.dev
	$(BIN)/cuhlm-opt pairs fetch $*
	$(BIN)/cuhlm-opt calibrate --pair $* --prompts stdlib --prompts general --limit $(LIMIT) --max-tokens 32 --threads 2 --out $(OUT)/recorded/$* --resume

clean:
	rm -rf .venv $(OUT) build dist
