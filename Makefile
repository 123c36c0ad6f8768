# Every target makes .venv when it is missing, and reuses it while pyproject.toml has not changed.
PYTHON ?= python3
# The release that the tests ran with. Another build of torch: make lab TORCH="torch==2.13.0+cu130"
TORCH ?= torch==2.13.0
BIN := .venv/bin
# in containers everybody is root, which Jupyter refuses unless told
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)
# nbgrader starts alembic by its bare name
export PATH := $(CURDIR)/$(BIN):$(PATH)
# the files Census-Income and the like are looked for here first; else they are downloaded and cached
ifneq ($(wildcard ../shared/data),)
export MTLKIT_DATA ?= $(abspath ../shared/data)
endif

.PHONY: lab test seeds notebooks grade bench docs

lab: .venv/ready
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks/00_start/00_start.ipynb $(AS_ROOT) $(LAB_ARGS)

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(TEST_ARGS)

# the checks of the checks over all 200 seeds; `make test` runs 43 of them
seeds: .venv/ready
	MTLKIT_ALL_SEEDS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/test_checks.py $(TEST_ARGS)

notebooks: .venv/ready
	$(BIN)/python -m tools.build

grade: .venv/ready
	$(BIN)/python -m tools.grade

# every command of docs/results.md; what is done is kept in build/bench. The published packages that
# benchmarks/step.py compares with have requirements of their own, so they stay out of the environment.
bench: .venv/ready
	test -d build/peers || $(BIN)/python -m pip install --quiet --no-deps --target build/peers \
		torch-rechub==0.9.0 deepctr-torch==0.3.0 LibMTL==1.1.5
	PYTHONPATH=build/peers $(BIN)/python benchmarks/run_all.py $(BENCH_ARGS)

# README, docs/ and the notebooks as a site, in an environment of its own: build/site/_build/html/index.html
docs:
	rm -rf build/site && mkdir -p build/site
	cp -r README.md CHANGELOG.md LICENSE LICENSE-prose CITATION.cff docs notebooks build/site
	test -x build/docs-env/bin/jupyter-book || \
		{ $(PYTHON) -m venv build/docs-env && build/docs-env/bin/python -m pip install --quiet "jupyter-book>=1,<2"; }
	cd build/site && ../docs-env/bin/jupyter-book build . --quiet --config docs/_config.yml --toc docs/_toc.yml
	@echo "The site: build/site/_build/html/index.html"

# "ready" is touched last: an install that broke off is done again.
.venv/ready: pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mtlkit needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$(TORCH)" -e ".[course,cli,dev,browser,cluster]"
	touch $@
