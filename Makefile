PYTHON ?= python3
BIN := .venv/bin

PYTEST = OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-short test-long lint bench gpu docs clean

setup: .venv/ready

# the stamp is written last: an installation that was interrupted is done again
.venv/ready: pyproject.toml constraints.txt setup.py vqaudio/kernels/kernels.cpp
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vqaudio needs Python 3.11 or newer: make PYTHON=python3.11 setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[metrics]' \
		|| echo "no C compiler, or no Python headers: evaluation goes without words, naturalness, speakers, pitch, PESQ and STOI" >&2
	touch $@

demo: .venv/ready
	rm -rf demo
	PATH="$(CURDIR)/$(BIN):$$PATH" bash egs/mini/demo.sh

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# pyright keeps one core busy, the tests two
test: .venv/ready
	$(MAKE) --no-print-directory --jobs=2 lint test-short

test-short: .venv/ready
	$(PYTEST) -m "not long"

# whole recipes and reports, of which `make test` runs one of each, and kernels under sanitizers: CI runs both
test-long: .venv/ready
	$(PYTEST) -m long

bench: .venv/ready
	$(BIN)/python tests/bench/bench_tokenize.py
	$(BIN)/python tests/bench/bench_train.py
	$(BIN)/python tests/bench/bench_quantizer.py
	$(BIN)/vqaudio bench

# an hour or less of a GPU: make gpu DATA=data OUT=exp/gpu SECONDS=420 [FLAGS="--stage bench --stop-stage bench"]. It needs
# no installation: the Python of `make setup` if there is one, otherwise PYTHON
DATA ?= data
OUT ?= exp/gpu
SECONDS ?= 420
gpu:
	PYTHON=$(if $(wildcard $(BIN)/python),$(abspath $(BIN)/python),$(PYTHON)) bash egs/gpu/run.sh \
		--data "$(DATA)" --out "$(OUT)" --seconds "$(SECONDS)" $(FLAGS)

# strict: a broken link, a page outside the navigation and a docstring that cannot be read are errors
docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf demo exp site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
