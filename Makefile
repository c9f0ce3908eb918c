# Every target makes .venv when it is missing or older than what it is made from. EXTRAS=dev,torch adds
# PyTorch, for the benchmark and the tests of parity with it.
PYTHON ?= python3
ifneq ($(filter docs,$(MAKECMDGOALS)),)
EXTRAS ?= dev,docs
endif
EXTRAS ?= dev
BIN := .venv/bin
STAMP := .venv/.made-$(EXTRAS)
METHODS := baseline,random,clean_only,l2rw
DIGITS := -m experiments.sweep --config=configs/digits.py --workdir=runs/digits --methods=$(METHODS) --seeds=5

.PHONY: run test test-all lint format results stability mnist-imbalance bench compile-time side-by-side \
        scaling gpu gpu-smoke reproduce-smoke optimizers modes label-audit figures docs clean

$(STAMP): setup.cfg pyproject.toml
	@echo "Making .venv (some minutes, once) ..."
	@[ -e .venv ] || { mkdir .venv && touch .venv/.of-make; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $(STAMP)

run: $(STAMP)  ## the main job: digits with 40 % label noise, four methods, five seeds
	$(BIN)/python $(DIGITS)
	@echo "Open runs/digits/report.html: the table, the curves, the weights, and the labels most in doubt"

test: $(STAMP)  ## the tests, but for the slow ones
	$(BIN)/python -m pytest -n 2 -q

test-all: $(STAMP)  ## all tests
	$(BIN)/python -m pytest -n 2 -q -m ""

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy l2rw_jax experiments

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: $(STAMP)  ## makes the committed files of results/digits* again
	$(BIN)/python $(DIGITS) --output=results/digits

bench: $(STAMP)  ## a step in both frameworks, twenty minutes; needs EXTRAS=dev,torch
	$(BIN)/python -m experiments.benchmark --minutes=19.5

compile-time: $(STAMP)  ## how long plain and reweighted steps take to compile
	$(BIN)/python -m experiments.benchmark.compile_time --output=results/compile-cpu

side-by-side: $(STAMP)  ## trains both frameworks on the same batches; needs EXTRAS=dev,torch and MNIST
	$(BIN)/python -m experiments.benchmark.side_by_side --config=configs/mnist_imbalance.py --workdir=runs/side-by-side --methods=baseline,l2rw --seeds=3 --config.steps=500 --config.learning_rate=3e-3 --config.eval_every=100 --output=results/side-by-side

gpu: $(STAMP)  ## every GPU measurement; takes hours and resumes; needs EXTRAS=dev,torch,cuda and the data
	$(BIN)/python -m experiments.accelerator --output=runs/gpu

gpu-smoke: $(STAMP)  ## the same program at a tiny size; some minutes on a CPU
	$(BIN)/python -m experiments.accelerator --output=runs/gpu-smoke --smoke

scaling: $(STAMP)  ## how steps per call, seeds, streams and checkpoints pay; many devices on paper
	$(BIN)/python -m experiments.scaling --minutes=8 --output=results/scaling-cpu

optimizers: $(STAMP)  ## the table of docs/reference/optimizers.md
	$(BIN)/python -m experiments.benchmark.optimizers --write

modes: $(STAMP)  ## what the scores' modes and masks cost, and how exact they are
	$(BIN)/python -m experiments.benchmark.modes --output=results/modes-cpu

label-audit: $(STAMP)  ## the label audit against cleanlab; needs EXTRAS=dev,benchmark and runs/human.npz
	$(BIN)/python -m experiments.benchmark.label_audit --data=digits --trusted=50 --output=results/label-audit-digits
	$(BIN)/python -m experiments.benchmark.label_audit --data=npz:runs/human.npz --output=results/label-audit-human

figures: $(STAMP)  ## the pictures of README and docs that need no training, from results/
	$(BIN)/python -m experiments.figures

reproduce-smoke: $(STAMP)  ## every table and figure of the paper at smoke scale
	for target in table1 table2 figure3 figure5 figure6 figure7; do \
	  $(BIN)/python -m experiments.reproduce --target=$$target --output=runs/reproduce/smoke-$$target || exit 1; \
	done

mnist-imbalance: $(STAMP)  ## what README reports of MNIST at 200:1; needs the data, half an hour
	$(BIN)/python -m experiments.sweep --config=configs/mnist_imbalance.py --workdir=runs/mnist_imbalance --methods=baseline,random,l2rw --seeds=3 --output=results/mnist_imbalance

stability: $(STAMP)  ## what docs/explanation/stability.md reports: 10 seeds with 50 clean images, by clip_norm
	$(BIN)/python -m experiments.sweep --config=configs/digits.py --workdir=runs/stability --methods=l2rw --seeds=10 --sweep=clip_norm=0.0,2.0,5.0 --config.weight_decay=0.0
	cp runs/stability/clip_norm=0.0/l2rw/seed7/metrics.jsonl results/stability-dead-run.jsonl
	cp runs/stability/sweep.md results/stability.md  # not its figure: a limit of 0 is none, as an axis it misleads
	cp runs/stability/sweep.json results/stability.json
	$(BIN)/python -m experiments.sweep --config=configs/digits.py --workdir=runs/weight-decay --methods=$(METHODS) --seeds=5 --sweep=weight_decay=0.0,0.001,0.002 --output=results/weight-decay

docs: $(STAMP)  ## the site, into docs/_build/html; runs its notebooks, some minutes
	$(BIN)/sphinx-build -q -W --keep-going -E -d docs/_build/doctrees docs docs/_build/html
	@echo "The site: docs/_build/html/index.html"

clean:  ## removes what make made, but for runs/ and results/
	rm -rf docs/_build
	@if [ -e .venv/.of-make ]; then echo rm -rf .venv l2rw_jax.egg-info; rm -rf .venv l2rw_jax.egg-info; fi
