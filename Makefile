# `make demo` and `make test` are all that a fresh clone needs; the rest is for developers.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
PEERS := .venv-bench/.set-up
CPP := $(shell git ls-files 'csrc/**' tests/helpers bench 2>/dev/null | grep -E '\.(c|cpp|hpp|inl|cu|cuh)$$')

.PHONY: help demo setup test test-all check format bench bench-peers device sanitize mutants clean

help:
	@echo "make demo      set up .venv, scan the embedded model, results and figures in runs/demo"
	@echo "make test      set up .venv when missing, run the test suite"
	@echo "make test-all  the longer tests as well, and every instruction set forced in turn"
	@echo "make sanitize  the native code under ASan, UBSan and TSan (GCC or Clang)"
	@echo "make mutants   take one safeguard after the other away; a test has to fail for each"
	@echo "make check     ruff, mypy, clang-format, import layering"
	@echo "make bench     benchmarks, results and their page in bench/ (PART=\"ffn scan\": some of them)"
	@echo "make bench-peers  the other tools that benchmarks run beside, in .venv-bench"
	@echo "make device    build, test and measure on this machine's GPU with the packages of python3"
	@echo "make setup     only the environment;  make clean  remove what was built"

# One install, through the tested versions. No build isolation: the extension is rebuilt on import
# when its sources change, and that needs the build tools in the environment itself.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt scikit-build-core pybind11 cmake ninja
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation \
		--editable ".[plots,zst,pandas,gpu]" --group dev
	touch $(STAMP)

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m pyneurons demo

# Over all processors: 9,000 tests take 4 minutes on 2 of them, 6.5 on one.
SPREAD := --numprocesses auto --dist worksteal --quiet

# Required backends fail where they cannot run; the others skip on a processor that lacks them.
test: $(STAMP)
	PYNEURONS_REQUIRE_BACKENDS=reference,cpp,cpp:scalar,triton $(BIN)/python -m pytest -m "not slow" $(SPREAD)

test-all: $(STAMP)
	PYNEURONS_REQUIRE_BACKENDS=reference,cpp,cpp:scalar,triton $(BIN)/python -m pytest
	for isa in $$($(BIN)/python -c "from pyneurons import _core; print(*_core.isas())"); do \
		PYNEURONS_ISA=$$isa $(BIN)/python -m pytest -q -m "not slow" || exit 1; done

# Builds of their own in build/dev and build/threads; TESTS="tests/test_ffn.py": some of them.
sanitize: $(STAMP)
	tests/sanitize.sh threads
	tests/sanitize.sh address $(TESTS)

# Of a tree without changes, which it changes and puts back; GROUPS="inputs laws": some of them.
mutants: $(STAMP)
	$(BIN)/python tests/helpers/mutants.py $(GROUPS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/python -m pytest -q tests/test_layering.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# Each part runs alone, and its records replace the older ones: an interrupted run goes on with
# the parts that are missing, `make bench PART="scan scan_demo"`.
bench: $(STAMP)
	$(BIN)/python bench/run.py $(PART)

# Apart from .venv: they bring a hundred packages along.
bench-peers: $(PEERS)

$(PEERS): constraints.txt bench/constraints.txt
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt \
		--constraint bench/constraints.txt torch transformers numpy transformer-lens nnsight
	touch $(PEERS)

# With python3 as it is: nothing is fetched. PART="products forward": some parts; OUT=FOLDER, COMMIT=HASH:
# where the results go, and of which tree they are, where it is no git checkout.
device:
	PYTHONPATH=bench $(PYTHON) -m device $(PART) $(if $(OUT),--out $(OUT)) $(if $(COMMIT),--commit $(COMMIT))

clean:
	rm -rf $(VENV) .venv-bench build dist runs *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks .hypothesis
	find pyneurons tests bench kernels -name __pycache__ -type d -prune -exec rm -rf {} +
