# Everything a developer types. `make help` lists it.
# `make demo` and `make test` set up by themselves; a second run finds everything in place.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt | cksum | tr ' ' '-')
BENCH_VENV   := .venv-bench
BENCH_STAMP  := $(BENCH_VENV)/.ready-$(shell cat pyproject.toml constraints-bench.txt | cksum | tr ' ' '-')

# A hundred processes start in a run of the tests: without bytecode, each of them compiles the same files.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo up test check rules fmt docs wheels unit integration brokers edges contracts operators end-to-end walks repairs outages pairs screens ups alerts chaos chaos-cluster bench bench-backlog screenshots constraints env clean

help: ## what can be typed
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-13s %s\n", $$1, $$2 }'

setup: $(STAMP) ## a virtual environment in .venv, from hashed constraints

$(STAMP): pyproject.toml constraints.txt deploy/setup.sh
	@PYTHON="$(PYTHON)" sh deploy/setup.sh "$(VENV)"
	@rm -f $(VENV)/.ready-* && touch $@

demo: setup ## three trainings before your eyes, on private servers
	@$(BIN)/modelswap demo

up: setup ## the same stack, until Ctrl-C; STATE=folder keeps it for the next time
	@$(BIN)/modelswap up --embedded $(if $(STATE),--state "$(STATE)") --example

check: setup ## lint, types, import rules and unit tests: minutes, no server
	@echo "── lint";         $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "── types";        $(BIN)/mypy
	@echo "── import rules"; $(BIN)/lint-imports --no-cache --no-logo 2>/dev/null || $(BIN)/lint-imports --no-cache
	@echo "── unit tests";   $(BIN)/pytest tests/unit

rules: setup ## who may import whom
	@$(BIN)/lint-imports --no-cache

unit: setup ## tests without I/O
	@$(BIN)/pytest tests/unit

# Files that are a part of their own, so that none of the parts lasts much longer than the others.
OPERATORS := $(wildcard tests/integration/test_console_*.py tests/integration/test_ops_*.py) \
	$(patsubst %,tests/integration/test_%.py,reconcile repairs replays)
CONTRACTS := $(wildcard tests/integration/test_cli_*.py tests/integration/test_simulator_*.py) \
	$(patsubst %,tests/integration/test_%.py,contract_documents openapi)
REPAIRS   := $(patsubst %,tests/end_to_end/test_%.py,cli dead_letters doctor metrics reconcile replays)
SCREENS   := $(wildcard tests/end_to_end/test_console_*.py)
PAIRS     := $(patsubst %,tests/end_to_end/test_%.py,handover mixed_versions)
UPS       := $(patsubst %,tests/end_to_end/test_%.py,up demo)

integration: brokers edges contracts operators ## one edge at a time, against real servers

brokers: setup
	@echo "── integration tests, brokers"; $(BIN)/pytest tests/integration -m "own_servers or every_rabbitmq"

operators: setup
	@echo "── integration tests, operators"; $(BIN)/pytest $(OPERATORS) -m "not (own_servers or every_rabbitmq)"

contracts: setup
	@echo "── integration tests, commands, documents and the simulator"; \
		$(BIN)/pytest $(CONTRACTS) -m "not (own_servers or every_rabbitmq)"

edges: setup
	@echo "── integration tests, other edges"; $(BIN)/pytest tests/integration -m "not (own_servers or every_rabbitmq)" \
		$(patsubst %,--ignore=%,$(OPERATORS) $(CONTRACTS))

end-to-end: walks repairs outages pairs screens ups ## whole walks, what dies on the way, and what people see of it

walks: setup
	@echo "── end-to-end tests on shared servers"; $(BIN)/pytest tests/end_to_end -m "not own_servers" \
		$(patsubst %,--ignore=%,$(REPAIRS) $(SCREENS) $(PAIRS) $(UPS))

repairs: setup
	@echo "── end-to-end tests of what operators do"; $(BIN)/pytest $(REPAIRS) -m "not own_servers"

outages: setup
	@echo "── end-to-end tests with servers of their own"; $(BIN)/pytest tests/end_to_end -m own_servers \
		$(patsubst %,--ignore=%,$(SCREENS) $(PAIRS) $(UPS))

pairs: setup
	@echo "── end-to-end tests with two processes of a service"; $(BIN)/pytest $(PAIRS)

screens: setup
	@echo "── end-to-end tests in a browser"; $(BIN)/pytest $(SCREENS)

ups: setup
	@echo "── end-to-end tests of up and demo"; $(BIN)/pytest $(UPS)

chaos: setup ## faults of every kind at once, ten seeds of 1,000 trainings on two RabbitMQs: two hours
	@$(BIN)/pytest -o faulthandler_timeout=3600 -m chaos tests/end_to_end/test_chaos.py

chaos-cluster: setup ## nodes of RabbitMQ die one by one, Postgres fails over, Postgres freezes: 5,000 trainings each, an hour
	@$(BIN)/pytest -s -o faulthandler_timeout=3600 -m chaos tests/end_to_end/test_chaos_cluster.py

alerts: setup ## every alert, on a stack that is broken on purpose: a quarter of an hour
	@$(BIN)/pytest -m alerts tests/end_to_end/test_alerts.py

# Most of the parts wait most of the time, so eight run at once, the longest first, and each shows its output as it ends.
# Each starts servers of its own; on servers that are given, they would take each other's messages.
test: setup ## everything, as CI runs it: minutes, and silent until a part has ended
	@$(MAKE) --no-print-directory --jobs=$(if $(MODELSWAP_TEST_AMQP_URL),1,8) $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) \
		walks repairs outages brokers operators edges contracts pairs screens check ups

wheels: setup ## dist/: the wheels of modelswap, of its private servers, and of the client for subscribers
	@for project in . deploy/local shared/subscriber; do \
		(cd $$project && $(CURDIR)/$(BIN)/python -m hatchling build --target wheel --directory $(CURDIR)/dist) || exit 1; \
	done

docs: setup ## the contract's documents in deploy/contract, from the code
	@for each in asyncapi openapi schemas; do $(BIN)/modelswap docs $$each || exit 1; done

fmt: setup ## put the code in form
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

# The peers come into an environment of their own: one of them needs an older package than the tools here do. Where they
# cannot be installed, modelswap is compared with the plain pipeline alone.
bench: setup ## how fast, beside a plain pipeline, FastStream, taskiq and Celery
	@test -e $(BENCH_STAMP) || { PYTHON="$(PYTHON)" sh deploy/setup.sh $(BENCH_VENV) constraints-bench.txt && \
		rm -f $(BENCH_VENV)/.ready-* && touch $(BENCH_STAMP); } || echo "bench: the peers are left out"
	@if [ -e $(BENCH_STAMP) ]; then venv=$(BENCH_VENV); else venv=$(VENV); fi; \
		$$venv/bin/python -m tests.bench.pipeline $(OPTIONS)

bench-backlog: setup ## a backlog of 100,000 drained, and the cost beside a million stored trainings
	@$(BIN)/python -m tests.bench.backlog $(OPTIONS)

screenshots: setup ## every screen of the console with simulated data, into $(FOLDER)
	@$(BIN)/python -m tests.screens "$(or $(FOLDER),dist/screenshots)" $(OPTIONS)

env: ## .env for docker compose, with fresh random secrets
	@sh deploy/make_env.sh

constraints: setup ## pin anew what pyproject.toml asks for
	@$(BIN)/uv pip compile pyproject.toml --group dev --extra dev-postgres --extra otel --universal --python-version 3.11 \
		--generate-hashes --no-header --quiet -o constraints.txt
	@cp constraints.txt constraints-bench.txt # the same versions, wherever the peers allow it
	@$(BIN)/uv pip compile pyproject.toml --group bench --extra dev-postgres --universal --python-version 3.11 \
		--generate-hashes --no-header --quiet -o constraints-bench.txt

clean: ## remove what setup and the tools made
	@rm -rf $(VENV) $(BENCH_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
