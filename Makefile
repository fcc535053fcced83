# Every target works from a bare clone, makes .venv in the project, and is quick when there is nothing to do.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
HOST ?= 127.0.0.1
PORT := $(or $(PORT),8000)
STORE ?= store
MODEL ?= boston-housing
URL ?= http://localhost:8000
MONITOR_PORT ?= 9090
ARGS ?=
EXTRAS ?=
TESTED_EXTRAS := alembic catboost lightgbm mlflow-skinny skl2onnx skops xgboost-cpu
OVERLAY ?= cpu
# A model goes into an image only where it is named: MODEL above has a default.
BAKED = $(if $(findstring command,$(origin MODEL)),MODEL="$(MODEL)",MODEL=)

# Empty, as compose passes on what is not set, is not set: gunicorn takes an empty text for a number.
ifeq ($(WEB_CONCURRENCY),)
unexport WEB_CONCURRENCY
endif

BIN := .venv/bin
SETUP := .venv/.setup
INSTALLED := .venv/.installed
TORCH := .venv/.installed-torch
TEST := .venv/.installed-test
DEV := .venv/.installed-dev
NOTEBOOK := .venv/.installed-notebook
CLIENTS := .venv-clients/.installed
WORKFLOWS := .venv-workflows/.installed
# A server of Azure's storage, for tests; the last release for Node before 21.
AZURITE := .azurite/3.35.0
EMPTY :=
# As the name of a target, in which make takes a space for the end of the word. A store behind a URL has no such file.
CHAMPION := $(if $(findstring ://,$(STORE)),,$(subst $(EMPTY) ,\ ,$(STORE)/$(MODEL)/moves/1.json))
# What training MODEL needs: PyTorch only where ARGS or a schema file names the network.
NAMED = $(subst =, ,$(ARGS))
SCHEMAS = "model/data/$(subst -,_,$(MODEL)).toml" $(filter %.toml,$(NAMED))
IS_NETWORK = $(or $(filter mlp,$(NAMED)),$(shell grep -hs '^learner *= *"mlp"' $(SCHEMAS)))
TRAINING = $(if $(IS_NETWORK),$(TORCH),$(INSTALLED))
TRAIN = $(BIN)/python -m model --store "$(STORE)" train "$(MODEL)" --notebook
# On every core: each test has its own files, ports and processes. A process that has none left takes tests from another.
PYTEST = $(BIN)/python -m pytest --dist worksteal --numprocesses
QUICK := tests/unit tests/service
MAIN_JOB := tests/server/test_main_job.py
# The longest come first, so that all processes end at about the same time.
SLOW := tests/outside tests/train tests/server
# They wait for servers most of the time: two a core.
SLOW_PROCESSES = $$((2 * $$(getconf _NPROCESSORS_ONLN)))
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup install dev lint format check test test-slow test-all conformance train run monitor demo notebook bench \
	bench-bulk image image-cuda push deploy undeploy all clean

help: ## list the targets, the most important ones first
	@for rank in "[1-9]" ""; do \
		grep -hE "^[a-z-]+:.*##$$rank " $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*##([1-9]?) (.*)/\2\t  make \1\t\3/' | \
			sort -ns | cut -f 2- | expand -t 20; \
		echo; \
	done

setup: $(SETUP) ## make the virtual environment .venv
install: $(INSTALLED) ## install what training and serving need (for models of other libraries: EXTRAS="xgboost lightgbm catboost skops")
	$(if $(strip $(EXTRAS)),$(PIP) -c constraints.txt -c requirements-extras.txt $(EXTRAS))
dev: $(DEV) ## install what lint and tests need, too
all: install lint test ## install, lint and test

lint: $(DEV) ## check style, types, shell scripts and the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck .ci/run *.sh docker/*.sh
	$(BIN)/hadolint Dockerfile

format: $(DEV) ## put the code into the format that lint asks for
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint ##3 lint, and the tests that need no process, socket or sleep: the quick answer
	$(PYTEST) logical $(ARGS) $(QUICK)

test: $(TEST) ##3 run the quick tests, then train, serve and predict over HTTP
	$(PYTEST) logical $(ARGS) $(QUICK) $(MAIN_JOB)
	@echo "Left out: tests of the running server, of training, and with Docker, databases, Prometheus and the platforms'"
	@echo "clients. make test-all runs everything."

test-slow: $(DEV) $(CLIENTS) $(WORKFLOWS) $(AZURITE) ## run the tests that `make test` leaves out
	$(PYTEST) $(SLOW_PROCESSES) $(ARGS) $(SLOW) --ignore $(MAIN_JOB)

test-all: test test-slow ## run every test

conformance: $(DEV) ## run V2's cases against the server at URL (more: ARGS="--model NAME")
	$(BIN)/python -m pytest conformance --url "$(URL)" $(ARGS)

train: $(TRAINING) ##2 train a version of MODEL; your table: MODEL=prices ARGS="--data houses.csv --target price"
	$(TRAIN) $(ARGS)

run: $(INSTALLED) | $(CHAMPION) ##1 serve on PORT of HOST; trains first if there is no model yet
	@echo "Tabserve: http://localhost:$(PORT)/ (stop with Ctrl-C)"
	@TABSERVE_STORE="$(STORE)" TABSERVE_HOST="$(HOST)" PORT="$(PORT)" exec $(BIN)/gunicorn

monitor: $(INSTALLED) ##7 run Prometheus with our rules against the server at URL
	@exec $(BIN)/python -m monitoring run --url "$(URL)" --port "$(MONITOR_PORT)" $(ARGS)

demo: $(INSTALLED) | $(CHAMPION) ##8 send a day of traffic with a drift to a server of its own, and say where to look
	@exec $(BIN)/python -m monitoring demo --store "$(STORE)" $(ARGS)

image: ##5 build the image; with MODEL=NAME, with that model in it; with EXTRAS=s3, for stores there
	@$(BAKED) EXTRAS="$(EXTRAS)" docker/build.sh

image-cuda: ## the same with PyTorch and CUDA
	@$(BAKED) VARIANT=cuda docker/build.sh

push: ## build the image and push it to IMAGE
	@$(BAKED) ./upload_docker.sh

deploy: ##6 apply OVERLAY to the cluster and forward PORT to it
	@OVERLAY="$(OVERLAY)" PORT="$(PORT)" ./run_kubernetes.sh

undeploy: ## take OVERLAY out of the cluster
	kubectl delete --kustomize "k8s/overlays/$(OVERLAY)"

notebook: $(NOTEBOOK) ## open the notebooks in JupyterLab
	PYTHONPATH="$(CURDIR)" $(BIN)/jupyter lab --notebook-dir=notebooks

bench: $(DEV) | $(CHAMPION) ##4 measure the engine, and the service beside its peers (fewer: ARGS="--only tabserve fastapi")
	TABSERVE_STORE="$(STORE)" $(BIN)/python -m benchmarks $(ARGS)

bench-bulk: $(DEV) ## measure bulk scoring beside other ways (smaller: ARGS="--rows 100000")
	$(BIN)/python -m benchmarks.bulk $(ARGS)

clean: ## remove the virtual environment and caches; the store stays
	rm -rf .venv .venv-clients .venv-workflows .azurite benchmarks/.venvs .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CHAMPION): | $(TRAINING)
	$(TRAIN)

$(SETUP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Tabserve needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

$(INSTALLED): requirements.txt requirements-serve.txt constraints.txt | $(SETUP)
	$(PIP) -r requirements.txt
	@touch $@

$(TORCH): requirements-torch.txt $(INSTALLED)
	$(PIP) -r requirements-torch.txt
	@touch $@

$(TEST): requirements-test.txt $(INSTALLED)
	$(PIP) -r requirements-test.txt
	@touch $@

$(DEV): requirements-dev.txt requirements-extras.txt requirements-s3.txt requirements-sqs.txt requirements-gcs.txt \
		requirements-azure.txt requirements-spark.txt requirements-otel.txt requirements-tables.txt requirements-page.txt $(TEST) $(TORCH)
	$(PIP) -r requirements-dev.txt
	$(PIP) -c constraints.txt -c requirements-extras.txt $(TESTED_EXTRAS)
	$(PIP) --no-deps -r requirements-tables.txt -r requirements-page.txt
	@touch $@

$(CLIENTS): requirements-clients.txt constraints-clients.txt | $(SETUP)
	@mkdir -p .venv-clients
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 14))'; then \
		$(BIN)/python -m venv .venv-clients && \
		.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-clients.txt; \
	else echo "kserve's client needs a Python before 3.14: tests with the platforms' clients are skipped" >&2; fi
	@touch $@

$(WORKFLOWS): requirements-workflows.txt constraints-workflows.txt | $(SETUP)
	$(BIN)/python -m venv .venv-workflows
	.venv-workflows/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-workflows.txt
	@touch $@

$(AZURITE):
	@rm -rf $(@D)/.new; \
	{ command -v npm >/dev/null && \
		npm install --silent --no-audit --no-fund --ignore-scripts --before 2026-11-20 --prefix $(@D)/.new azurite@$(@F) && \
		mv $(@D)/.new $@; } || { rm -rf $(@D)/.new; \
		echo "Azurite is not installed, which needs npm: tests of stores on Azure are skipped" >&2; }

$(NOTEBOOK): requirements-notebook.txt $(INSTALLED)
	$(PIP) -r requirements-notebook.txt
	@touch $@
