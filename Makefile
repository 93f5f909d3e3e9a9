# Everything a developer or CI runs. Needs make and Python 3.11 or newer; the rest goes into .venv.
# The tests that look at the report in a browser skip themselves where there is no `chromium` on the PATH, those against
# a web server where there is no nginx and none can be installed, and those that need ../shared where that does not exist.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
OUT := demo-out
DEMO := tests/data/demo
# the newest that open_clip allows, older than the one in .venv: for a process of tests/test_trainers.py
OLD_WEBDATASET := build/loaders/webdataset-0.2.86
# what an image under 1,000 texts, or a word outside the 100 million most frequent, is among a few hundred pairs
DEMO_COUNTS := --set image_reuse.max_texts=30 --set common_ngrams.min_count=1

.DELETE_ON_ERROR:
.PHONY: demo test test-cluster test-ray test-spark cluster smoke check bench clean

demo: $(STAMP)
	$(VENV)/bin/curate run align_capfilt $(DEMO)/pairs --out $(OUT) --models mini --set eval_overlap.sets=$(DEMO)/eval $(DEMO_COUNTS)
	@echo
	@echo "report:     $(OUT)/report.html"
	@echo "decisions:  $(OUT)/decisions/*.parquet  (one row a record and text; what was planted: tests/data/demo/truth.jsonl)"
	@echo "tars:       $(OUT)/shards/*.tar"

test: check $(OLD_WEBDATASET)
	@command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && { apt-get update -q && apt-get install -y -q nginx-light; } >/dev/null 2>&1; } || \
	  echo "make: tests against a web server skip themselves without nginx (on Debian and Ubuntu: apt-get install nginx-light)"
	$(VENV)/bin/python -m pytest -q -n 3 --dist worksteal  # a third of the time they wait: for servers, children, locks

test-cluster: test-ray test-spark

# A process knows one Spark cluster, since it has one JVM, and one Ray cluster by what is in the environment: files apart.
test-ray: cluster
	$(VENV)/bin/python -m pytest -q -m cluster -k "not spark" --ignore=tests/test_cluster_failures.py
	$(VENV)/bin/python -m pytest -q -m cluster -k "not spark" tests/test_cluster_failures.py

test-spark: cluster
	$(VENV)/bin/python -m pytest -q -m cluster -k spark --ignore=tests/test_cluster_failures.py
	$(VENV)/bin/python -m pytest -q -m cluster -k spark tests/test_cluster_failures.py

smoke: $(STAMP)
	$(VENV)/bin/python .ci/smoke.py

cluster: $(STAMP)
	@command -v java >/dev/null || [ -n "$$JAVA_HOME" ] || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get install -y -q openjdk-17-jre-headless; } || { \
	  echo "make: Spark needs Java 17 (on Debian and Ubuntu: apt-get install openjdk-17-jre-headless)" >&2; exit 1; }
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[ray,spark]"

check: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/python .ci/layout.py build/layout
	cd build/layout && ../../$(VENV)/bin/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache
	cd build/layout && ../../$(VENV)/bin/lint-imports --config ../../pyproject.toml

$(OLD_WEBDATASET): | $(STAMP)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ $(subst -,==,$(@F))

bench: $(STAMP)
	$(VENV)/bin/python -m tests.bench

clean:
	rm -rf $(OUT) build dist .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find curate filters tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt tests/mini-models/pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; set PYTHON=... to Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: curate needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "make: $(PYTHON) cannot make virtual environments (on Debian and Ubuntu: install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[models,fetch,crawl,img2dataset,dev]" -e tests/mini-models
	@touch $@
