# Everything sets itself up: `make test` on a bare Debian with root installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MONEY_TESTS := tests/lab/test_money.py tests/unit/test_seff_bills.py tests/unit/test_charge.py tests/unit/test_pricing.py \
  tests/unit/test_price_command.py tests/unit/test_estimates.py tests/unit/test_windows.py tests/unit/test_costs_command.py
STACK_TESTS := tests/integration/test_prometheus_config.py tests/unit/test_dashboards.py tests/unit/test_stack_counts.py \
  tests/integration/test_dashboard_queries.py tests/integration/test_compose.py tests/integration/test_containers.py \
  tests/stack tests/grafana
STAMP := $(VENV)/.installed
PEERS := build/bench-venv

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-check test crash-test tunnel-test money-test archive-test stack-test lint lab lab-down bench render pictures lock clean

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): requirements-dev.lock pyproject.toml
	@tests/prepare venv $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(STAMP) ## Make the development environment in .venv

demo: $(STAMP) ## See rayslurm at work on practice sites on this machine; Ctrl-C ends it
	@$(BIN)/rayslurm demo

demo-check: $(STAMP) ## The same for a minute, comparing /metrics with what is true at the practice sites
	@$(BIN)/rayslurm demo --check

test: $(STAMP) ## Run all tests; as root on Debian with the lab, elsewhere what can run there
	@tests/prepare tests
	@tests/prepare ray
	@tests/prepare node
	@tests/prepare prometheus3
	@# Most of the time goes into waiting for the lab, so three test files at a time, each process with its own lab
	$(BIN)/python -m pytest -n 3 --dist=loadfile --no-loadscope-reorder

crash-test: $(STAMP) ## Kill serve in the lab a hundred times and lose replies in every way: no job doubled, none lost
	@tests/prepare tests
	RAYSLURM_CRASH_KILLS=100 $(BIN)/python -m pytest tests/lab/test_crash.py
	@$(BIN)/python -m tests.lab.crash

tunnel-test: $(STAMP) ## Break tunnels in every way with real sshd and Ray: each is told apart, and nothing is left of keys and ports
	@tests/prepare tests
	RAYSLURM_LEASE_LAUNCHES=50 RAYSLURM_LEASE_KILLS=10 $(BIN)/python -m pytest tests/lab/test_tunnel_cases.py \
	  tests/lab/test_ray_health.py tests/lab/test_thin_line.py tests/lab/test_consequences.py \
	  tests/integration/test_tunnel_keys.py tests/lab/test_leases.py
	@$(BIN)/python -m tests.lab.tunnel_cases

money-test: $(STAMP) ## Bill real jobs as each site does: estimates, bills, prints and ledger agree, and the formulas meet seff
	@tests/prepare tests
	@rm -f build/money-test.json
	RAYSLURM_MONEY_FULL=1 RAYSLURM_MONEY_EVIDENCE=1 $(BIN)/python -m pytest $(MONEY_TESTS)
	@$(BIN)/python -m tests.money

archive-test: $(STAMP) ## Keep jobs in a real Ceph over TLS while everything fails in turn: none lost, none twice, a lost store comes back
	@tests/prepare tests
	@rm -f build/archive-test.json
	RAYSLURM_ARCHIVE_KILLS=50 RAYSLURM_ARCHIVE_JOBS=100 RAYSLURM_ARCHIVE_MB=200 $(BIN)/python -m pytest \
	  tests/integration/test_archive.py tests/unit/test_archive.py tests/lab/test_archive.py
	@$(BIN)/python -m tests.ceph.archiving

stack-test: $(STAMP) ## Watch practice sites with Prometheus and Alertmanager: alerts come and go, every panel has something to show
	@tests/prepare tests
	@tests/prepare grafana
	@tests/prepare prometheus3
	@rm -f build/stack-test.json build/stack-test.xml
	@# What fails is counted in the last line, which ends with an error then
	-RAYSLURM_STACK_FULL=1 $(BIN)/python -m pytest --junitxml=build/stack-test.xml $(STACK_TESTS) \
	  $$(find build/prometheus3/bin/promtool 2>/dev/null | sed s,.*,tests/integration/test_prometheus3.py,)
	@$(BIN)/python -m tests.stack.evidence

lint: $(STAMP) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## Measure speed as ratios within one run, beside a bare Python, prometheus_client and the field's peers
	@$(MAKE) --no-print-directory $(PEERS)/.installed || echo "the peers could not be installed: they are LEFT OUT" >&2
	$(BIN)/python -m tests.bench

$(PEERS)/.installed: requirements-bench.lock
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	@touch $@

render: $(STAMP) ## Make the dashboards' JSON and pictures, the list of metrics and the schema of campaigns anew
	$(BIN)/rayslurm dashboards build
	$(BIN)/python -m exporter.metrics.reference > docs/metrics.md
	$(BIN)/rayslurm campaigns schema > jobs/campaigns/campaign.schema.json
	@$(MAKE) --no-print-directory pictures

pictures: $(STAMP) ## Take the pictures of the dashboards in docs/images, from a busy practice installation (5 min)
	@tests/prepare tests
	@tests/prepare grafana
	$(BIN)/python -m tests.grafana.album

lab: ## Bring up a real Slurm site on this machine and leave it up (root, Debian)
	@tests/lab/up

lab-down: ## End the lab and remove every trace of it (but Ray's cache: tests/lab/down --purge)
	@tests/lab/down

lock: ## Choose newer versions of the development environment and of the lab's Rays (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --group dev --extra dashboards --upgrade pyproject.toml -o requirements-dev.lock
	@# What the image is made of: the same versions
	for lock in ": pyproject.toml" "-build: --group pyproject.toml:build"; do uv pip compile --quiet --universal \
	  --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	  --constraint requirements-dev.lock $${lock#*:} -o requirements$${lock%%:*}.lock || exit; done
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --group pyproject.toml:bench --upgrade -o requirements-bench.lock
	for ray in ray ray-2.47; do (cd tests/lab && uv pip compile --quiet --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --upgrade requirements-$$ray.in -o requirements-$$ray.lock) || exit; done

clean: ## Remove what was made here
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
