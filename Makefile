# Everything a newcomer needs: `make demo` and `make test` set themselves up.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Half of the time of `make check` goes to compiling the tests where their bytecode is not kept.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready

.PHONY: demo study example example-model check test test-slow lint bench gpu gpu-wheels docs docs-assets wheelhouse container clean
.DEFAULT_GOAL := test

# What predicts, trains and reviews; and for all else what tests and pages need too.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[review,train]'
	touch $@

$(READY): $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/pathopatch demo -o demo-work

# The demo's study, whose numbers stand on the page Results.
study: $(INSTALLED)
	$(BIN)/python pipelines/demo/make_slides.py demo-work/study/cohort
	$(BIN)/pathopatch run pipelines/demo/study.toml --workers 2

# The slide and the model of `pathopatch predict --example`, which the package holds.
example: $(READY)
	$(BIN)/python pipelines/example/make_example.py demo-work/example

# The model of `pathopatch predict --example-model`, of two real slides in $PATHOPATCH_REAL_DATA.
example-model: $(READY)
	$(BIN)/python pipelines/example/make_he_model.py demo-work/example-model

# A process of tests has one core: its threads would spin against those of the others, which doubles some tests' time.
check test test-slow: export OMP_NUM_THREADS = 1

# The loop of every minute. mypy's daemon keeps what it knows; the first run takes longer.
check: $(READY)
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/dmypy run --timeout 3600 -- > /dev/null || { $(BIN)/dmypy run -- ; false; }
	$(BIN)/lint-imports > /dev/null || $(BIN)/lint-imports
	$(BIN)/python -m pytest --quick -q -n 2

# What a change can break, and the rest: tests that take long, such as kills at every point, Slurm and whole studies.
test: $(READY)
	$(BIN)/python -m pytest -m 'not slow' -n auto --dist loadfile --no-loadscope-reorder

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow -n auto --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

bench: $(READY)
	$(BIN)/python pipelines/bench/bench.py

# Runs on a bare machine: Python, torch with CUDA and NumPy. GPU_DEVICE=cpu tries the command on a processor, in small.
GPU_PYTHON ?= python3
GPU_DEVICE ?= cuda
gpu:
	$(GPU_PYTHON) pipelines/gpu/run.py --device $(GPU_DEVICE)

# What that machine lacks, in folders below 60 MB: make gpu-wheels GPU_WHEELS='--python 3.12 --torch 2.11.0 --has scipy pandas'
GPU_WHEELS ?=
gpu-wheels: $(READY)
	$(BIN)/python pipelines/gpu/wheels.py $(GPU_WHEELS)

# The tracked pictures and generated pages of docs.
docs-assets: $(READY)
	$(BIN)/python docs/assets.py demo-work/docs

docs: $(READY)
	$(BIN)/mkdocs build --strict --quiet
	@echo build/docs/index.html

# Everything to predict and review without a network. To train too: make wheelhouse EXTRAS=train,review,
# and on Linux, for processors only, PIP_WHEEL='--extra-index-url https://download.pytorch.org/whl/cpu'.
EXTRAS ?= review
PIP_WHEEL ?=
wheelhouse: $(READY)
	$(BIN)/python -m pip wheel --quiet --wheel-dir wheelhouse $(PIP_WHEEL) '.[$(EXTRAS)]'

# An image for podman, tried without a network; its variables stand in the script. Takes minutes.
container:
	pipelines/deployment/container.sh

clean:
	rm -rf $(VENV) demo-work build dist wheelhouse gpu-wheels-*
