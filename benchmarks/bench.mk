# `make bench` (about an hour and a half), `make bench-full` (hours) and `make bench-many` (minutes) set up two environments,
# since FBGEMM asks for its own. So does TorchRec, for `make bench-torchrec` (two minutes).

BENCH := .venv-bench
BENCH_FBGEMM := .venv-bench-fbgemm
BENCH_TORCHREC := .venv-bench-torchrec

# OPENBLAS_CORETYPE would choose NumPy's kernels for another processor.
BENCH_PYTHON := env -u OPENBLAS_CORETYPE $(BENCH)/bin/python
WITH_FBGEMM := --fbgemm-python $(BENCH_FBGEMM)/bin/python
BENCH_RUN := $(BENCH_PYTHON) benchmarks/bench.py $(WITH_FBGEMM)

bench: $(BENCH)/installed $(BENCH_FBGEMM)/rivals
	$(BENCH_RUN) $(BENCH_ARGS)

bench-full: $(BENCH)/installed $(BENCH_FBGEMM)/rivals
	$(BENCH_RUN) --full $(BENCH_ARGS)

bench-many: $(BENCH)/installed $(BENCH_FBGEMM)/rivals
	$(BENCH_PYTHON) benchmarks/many_tables.py $(WITH_FBGEMM) $(BENCH_ARGS)

bench-torchrec: $(BENCH)/installed $(BENCH_TORCHREC)/rivals
	$(BENCH_PYTHON) benchmarks/beside_torchrec.py --torchrec-python $(BENCH_TORCHREC)/bin/python $(BENCH_ARGS)

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

$(BENCH_TORCHREC)/rivals: benchmarks/requirements-torchrec.txt
	$(PYTHON) -m venv $(BENCH_TORCHREC)
	$(BENCH_TORCHREC)/bin/python -m pip install $(PIP) --upgrade pip
	$(BENCH_TORCHREC)/bin/python -m pip install $(PIP) -r benchmarks/requirements-torchrec.txt
	$(BENCH_TORCHREC)/bin/python -m pip install $(PIP) --no-deps torchrec==1.8.0
	touch $@
