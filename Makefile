# `make demo` and `make test` set up everything they need. They require Python 3.11 or newer and make, and use a C++ compiler
# if there is one.

PYTHON ?= python3
FRAMEWORKS ?= newest
CHECK ?= --group check
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(shell find src native -name '*.py*' -not -name '*.pyc' -o -name '*.cpp' -o -name '*.h')
PIP := --disable-pip-version-check --quiet

.PHONY: archives demo test test-all check format test-numpy test-keras test-private test-sanitize test-third-party test-versions test-front-ends \
    mutants wheel bench bench-full bench-many bench-torchrec docs kernels clean

demo: $(VENV)/installed
	$(BIN)/unhot compare --plot demo.png --json demo.json

# About an hour on two cores, the set-up included. Covers every rule, option, front end and kind of input, but not all combinations.
test: $(VENV)/tests check test-numpy
	$(BIN)/python -m pytest -q -n 2 --dist worksteal --durations 20 $(ALL) --ignore tests/keras3 tests
	$(MAKE) test-keras
	$(if $(ALL),$(MAKE) test-private)

# The front ends without the names that PyTorch, Keras and its backends do not publish (_private.py).
test-private: export UNHOT_PRIVATE := off
test-private: $(VENV)/tests
	$(BIN)/python -m pytest -q -n 2 --dist worksteal tests/pytorch tests/conformance/test_pytorch.py
	$(MAKE) test-keras ALL=

# All combinations, which takes some hours. tests/selection.py defines which test is in which set.
test-all:
	$(MAKE) test ALL=--all
	$(MAKE) test-third-party

# Most of the time with JAX is compiling. It takes less if processes share what JAX has compiled, and without LLVM's
# optimizations, which only the part of `make test-all` without Keras makes.
test test-keras: export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/build/jax
test test-keras: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0
test-keras: export XLA_FLAGS := --xla_backend_optimization_level=0
ifndef ALL
test: export XLA_FLAGS := --xla_backend_optimization_level=0
endif

# The Keras front end, one process per backend.
test-keras: $(VENV)/tests
	for backend in torch jax tensorflow; do \
	    KERAS_BACKEND=$$backend $(BIN)/python -m pytest -q -n 2 --dist worksteal --durations 5 $(ALL) \
	        tests/keras3 tests/test_ownership.py || exit 1; \
	done

check: $(VENV)/tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/clang-format --dry-run --Werror native/*.cpp native/*.h
	$(BIN)/python docs/make_api.py --check
	$(BIN)/python tools/print_kernels.py --check

format: $(VENV)/tests
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i native/*.cpp native/*.h

$(VENV)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP) --upgrade pip
	touch $@

$(VENV)/installed: $(VENV)/pip $(SOURCES)
	$(BIN)/python -m pip install $(PIP) ".[compare,sparse]"
	touch $@

$(VENV)/tests: $(VENV)/installed
	$(BIN)/python -m pip install $(PIP) --group test --group $(FRAMEWORKS) $(CHECK)
	touch $@

VOCABULARY_TESTS := tests/test_vocabulary.py tests/test_vocabulary_columns.py tests/test_vocabulary_threads.py

# Tests that need no framework. They run on the installed package.
CORE_TESTS := tests/test_lookup.py tests/test_bag.py tests/test_matmul.py tests/test_training.py tests/test_state.py \
    tests/test_vocabulary.py

# Each line of the registry in a closed loop, with the usual betas; and interruptions, once for each family of rules.
ON_NUMPY := "closed-wandering and (not beta_2 or 0.9-beta_2 and 0.999-closed or Lion) or real_signals or test_a_step[NAdam] or \
    test_a_step[Adamax or test_a_step[SGD] or test_a_step[Ftrl]"

# The package as it installs without a C++ compiler, in its own environment; then the conformance suite on the NumPy kernels.
test-numpy: $(VENV)/tests .venv-numpy/installed
	.venv-numpy/bin/python -c "from unhot import kernels; assert kernels.name == 'numpy', kernels.name"
	.venv-numpy/bin/python -m pytest -q -n 2 $(CORE_TESTS) $(if $(ALL),$(ALL),-k "not rest_for_longer")
	UNHOT_KERNELS=numpy $(BIN)/python -m pytest -q -n 2 $(VOCABULARY_TESTS)
	UNHOT_KERNELS=numpy $(BIN)/python -m pytest -q -n 2 --all tests/conformance/test_against_dense.py tests/test_interruption.py \
	    -k $(if $(ALL),"closed-wandering or test_a_step or real_signals",$(ON_NUMPY))

.venv-numpy/installed: $(SOURCES)
	$(PYTHON) -m venv .venv-numpy
	.venv-numpy/bin/python -m pip install $(PIP) --upgrade pip
	CXX=no-compiler CC=no-compiler .venv-numpy/bin/python -m pip install $(PIP) ".[sparse]"
	.venv-numpy/bin/python -m pip install $(PIP) pytest pytest-timeout pytest-xdist hypothesis
	touch $@

# Other libraries that train embeddings, in their own environment.
THIRD_PARTY := .venv-third-party/bin/python -m pytest -q -n 2 --dist worksteal --durations 5
test-third-party: .venv-third-party/installed
	$(THIRD_PARTY) tests/third_party/pytorch tests/third_party/files
	for backend in torch jax tensorflow; do \
	    KERAS_BACKEND=$$backend $(THIRD_PARTY) tests/third_party/keras3 || exit 1; \
	done

.venv-third-party/installed: $(SOURCES)
	$(PYTHON) -m venv .venv-third-party
	.venv-third-party/bin/python -m pip install $(PIP) --upgrade pip
	.venv-third-party/bin/python -m pip install $(PIP) .
	.venv-third-party/bin/python -m pip install $(PIP) --group third-party
	touch $@

# The native kernels under the address and undefined-behaviour sanitizers.
SANITIZED := build/sanitize/site
test-sanitize: $(VENV)/tests
	$(BIN)/python -m pip install $(PIP) cmake ninja nanobind
	$(BIN)/cmake -S . -B build/sanitize -G Ninja -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	    -DCMAKE_BUILD_TYPE=Debug -DUNHOT_SANITIZE=ON -DUNHOT_WERROR=ON
	$(BIN)/cmake --build build/sanitize
	rm -rf $(SANITIZED)
	mkdir -p $(SANITIZED)
	cp -r src/unhot $(SANITIZED)/unhot
	rm -f $(SANITIZED)/unhot/_native*
	$(BIN)/cmake --install build/sanitize --prefix $(SANITIZED)
	LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=$(CURDIR)/$(SANITIZED) PYTHONMALLOC=malloc \
	    $(BIN)/python -m pytest -q -p no:cacheprovider tests/test_kernels.py tests/test_lookup.py tests/test_bag.py tests/test_training.py \
	        tests/test_parse_lines.py $(VOCABULARY_TESTS)

# The front ends with the oldest and with the newest supported frameworks, each in an environment of its own. Older releases of
# PyTorch come with CUDA's libraries, which take 7 GB.
test-versions:
	$(MAKE) test-front-ends VENV=.venv-oldest FRAMEWORKS=oldest CHECK=
	$(MAKE) test-front-ends VENV=.venv-newest FRAMEWORKS=newest CHECK=

FRONT_ENDS := tests/pytorch $(addprefix tests/conformance/test_,pytorch.py against_frameworks.py jax.py jax_dense.py optax.py)
test-front-ends: $(VENV)/tests
	$(BIN)/python -m pytest -q -n 2 --dist worksteal --durations 5 $(ALL) $(FRONT_ENDS)
	$(MAKE) test-keras

# Puts small faults in one by one and checks that the fast set finds them. `make mutants ONLY="--only NAME"` tries a single one
# of tests/mutants.
mutants: $(VENV)/tests
	$(BIN)/python -m pip install $(PIP) cmake ninja nanobind
	$(BIN)/python tests/mutants/run.py $(ONLY)

# dist/: the source archive, and the wheel without native kernels, for systems that cannot use them.
archives: .venv-wheel/installed
	rm -rf dist
	.venv-wheel/bin/python -m build --sdist
	UNHOT_WITHOUT_NATIVE=1 .venv-wheel/bin/python -m build --wheel
	.venv-wheel/bin/twine check --strict dist/*
	.venv-wheel/bin/python .ci/check_dist.py dist

# As above, and the wheel for this machine (Linux): built from the source archive, repaired for other Linux systems, and tested
# in its own environment. Built with Python 3.12 or newer, the wheel is for that version and all later ones (the stable ABI).
# Built with 3.11, it is for 3.11 only.
wheel: archives
	rm -rf .venv-clean
	.venv-wheel/bin/python -m pip wheel $(PIP) --no-deps --wheel-dir dist/built dist/*.tar.gz
	PATH="$(CURDIR)/.venv-wheel/bin:$$PATH" auditwheel repair --wheel-dir dist dist/built/*.whl
	rm -r dist/built
	.venv-wheel/bin/python .ci/check_dist.py dist
	$(PYTHON) -m venv .venv-clean
	.venv-clean/bin/python -m pip install $(PIP) --no-index --find-links dist --no-deps unhot
	.venv-clean/bin/python -m pip install $(PIP) numpy
	.venv-clean/bin/python -m unhot --version
	.venv-clean/bin/python -c "from unhot import kernels; assert kernels.name.startswith('native'), kernels.name"
	.venv-clean/bin/python -m pip install $(PIP) scipy pytest pytest-timeout pytest-xdist hypothesis
	.venv-clean/bin/python -m pytest -q -n 2 $(CORE_TESTS)

.venv-wheel/installed: pyproject.toml
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install $(PIP) --upgrade pip
	.venv-wheel/bin/python -m pip install $(PIP) --group wheel
	touch $@

# The C++ of the laws (native/generated), from src/unhot/laws.
kernels: $(VENV)/installed
	$(BIN)/python tools/print_kernels.py

docs: $(VENV)/tests
	$(BIN)/python docs/make_api.py

include benchmarks/bench.mk

clean:
	rm -rf build dist .venv .venv-* .pytest_cache .mypy_cache .ruff_cache
