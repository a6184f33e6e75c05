# make demo   sets everything up in .venv, then turns one bundled picture into a mesh, gaussians and a pose
# make test   sets everything up in .venv, then runs the test suite
# make test-fast  the tests that are not marked slow, for use while editing
# make lint   ruff, mypy and the direction of imports, in the same environment
# make fuzz   malformed inputs to every reader for MINUTES minutes; findings are printed with how to repeat them
# make imports  draws which package imports which, docs/imports.svg
# make mutants SAMPLE=200 SEED=1  changes the code at random places, and lists the changes that no test notices
# make soak   kills commands at random moments, and repeats runs and random sequences: same results, same memory
# make vendor  downloads three.js and Spark from npm and bundles them for the viewer page; needs node
# make clean  removes the environment, build products and outputs
#
# Variables, all overridable on the command line:
#   PYTHON      the interpreter that creates the environment (3.10 or newer)
#   TORCH       the PyTorch that is installed, as pip understands it
#   TORCH_ARGS  further pip options for that one installation
#   TEST_ARGS   options of pytest
#   MINUTES     of `make fuzz`
#
# PyTorch is installed first and alone, so that no dependency picks its build. On Linux the default package index
# has the build with CUDA, which is several gigabytes. On a machine without an NVIDIA GPU take the CPU build:
# choose "CPU" on PyTorch's "Get started" page and pass the --index-url that it shows,
#     make demo TORCH_ARGS="--index-url <address of the CPU builds>"
# or give a wheel that you have:  make demo TORCH=./torch-2.13.0-cp311-cp311-linux_x86_64.whl

PYTHON     ?= python3
VENV       ?= .venv
TORCH      ?= torch==2.13.0
TORCH_ARGS ?=
EXAMPLE    ?= examples/teapot
# One file of tests per process at a time; a test uses one thread.
TEST_ARGS  ?= -n auto --maxprocesses 4 --dist loadfile
SAMPLE     ?= 200
SEED       ?= 1
MINUTES    ?= 10

BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check
READY   := $(VENV)/.installed
LINTERS := $(VENV)/.linters
MUTATES := $(VENV)/.mutates

.PHONY: demo test test-fast fuzz lint imports mutants soak vendor install clean
.DELETE_ON_ERROR:

demo: $(READY)
	@test -n "$(EXAMPLE)" || { echo "make demo: there is no examples/*/image.png here"; exit 1; }
	$(BIN)/python infer.py --image_path $(EXAMPLE) --output_dir outputs/demo --tag mini --enable_acceleration
	@echo "Look at preview.png in the folder above first; mesh.glb and gaussians.ply open in any viewer."

test: $(READY)
	$(BIN)/python -m pytest $(TEST_ARGS)

test-fast: $(READY)
	$(BIN)/python -m pytest $(TEST_ARGS) -m "not slow"

soak: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak

fuzz: $(READY)
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES)

lint: $(LINTERS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python .ci/attribute_paths.py

imports: $(LINTERS)
	$(BIN)/python .ci/draw_imports.py > docs/imports.svg

mutants: $(MUTATES)
	$(BIN)/python .ci/mutants.py --sample $(SAMPLE) --seed $(SEED)

vendor:
	.ci/viewer/bundle

install: $(READY)

$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "make: Python 3.10 or newer is needed; name one with PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@if [ "$$(uname -s)" = Linux ] && [ -z "$(TORCH_ARGS)" ] && ! command -v nvidia-smi >/dev/null; then \
	    echo "No NVIDIA GPU here: if a CUDA build starts to download, stop it and see TORCH_ARGS in the Makefile."; fi
	$(PIP) install $(TORCH_ARGS) "$(TORCH)"
	@touch $@

$(READY): pyproject.toml $(VENV)/.torch
	$(PIP) install -e ".[test]"
	@touch $@

$(LINTERS): $(READY)
	$(PIP) install -e ".[lint]"
	@touch $@

$(MUTATES): $(READY)
	$(PIP) install -e ".[test,mutants]"
	@touch $@

clean:
	rm -rf $(VENV) build dist outputs .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
