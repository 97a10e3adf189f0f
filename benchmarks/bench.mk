# `make bench` (about an hour and a half) and `make bench-full` (hours) set up two environments, since FBGEMM asks for its own.

BENCH := .venv-bench
BENCH_FBGEMM := .venv-bench-fbgemm

# OPENBLAS_CORETYPE would choose NumPy's kernels for another processor.
BENCH_RUN := env -u OPENBLAS_CORETYPE $(BENCH)/bin/python benchmarks/bench.py --fbgemm-python $(BENCH_FBGEMM)/bin/python

bench: $(BENCH)/installed $(BENCH_FBGEMM)/rivals
	$(BENCH_RUN) $(BENCH_ARGS)

bench-full: $(BENCH)/installed $(BENCH_FBGEMM)/rivals
	$(BENCH_RUN) --full $(BENCH_ARGS)

$(BENCH)/rivals: benchmarks/requirements.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install $(PIP) --upgrade pip
	$(BENCH)/bin/python -m pip install $(PIP) -r benchmarks/requirements.txt
	touch $@

$(BENCH)/installed: $(BENCH)/rivals $(SOURCES)
	$(BENCH)/bin/python -m pip install $(PIP) .
	touch $@

$(BENCH_FBGEMM)/rivals: benchmarks/requirements-fbgemm.txt
	$(PYTHON) -m venv $(BENCH_FBGEMM)
	$(BENCH_FBGEMM)/bin/python -m pip install $(PIP) --upgrade pip
	$(BENCH_FBGEMM)/bin/python -m pip install $(PIP) -r benchmarks/requirements-fbgemm.txt
	touch $@
