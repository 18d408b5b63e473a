# Targets for developers; `make` lists them. Requirements: Python 3.11 or newer, make, a package index.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done)
BIN := .venv/bin
INSTALLED := .venv/installed
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# Every worker has its own PostgreSQL, so more workers than cores are slower.
WORKERS ?= 2
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --durations 20

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: $(INSTALLED) ## Run the whole marketplace on this machine
	$(BIN)/admitone up

.PHONY: test
test: $(INSTALLED) browser ## Run the tests of behaviour; TESTS='tests/orders -k expire' selects some
	$(PYTEST) -m "not proof" $(TESTS)

.PHONY: check
check: $(INSTALLED) browser ## Everything that must pass before a commit: format, lint, types, contracts, short tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -m "not full"

.PHONY: proof
proof: $(INSTALLED) browser ## The long lane: simulation, mutants, chaos, clusters, overload, drills
	$(PYTEST) -m proof

.PHONY: bench
bench: $(INSTALLED) ## Measure throughput beside the database's own limit; PARTS='storm poison soak' selects others
	$(BIN)/python -m proof.load $(PARTS)

.PHONY: fix
fix: $(INSTALLED) ## Format, and fix what the linter can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: fuzz
fuzz: .venv/fuzz-installed ## Hostile input: REQUESTS=1000000 mutated, CASES=20000 from the API document, SECONDS=120 per parser
	$(BIN)/python -m proof.fuzz requests --count $(or $(REQUESTS),1000000)
	$(BIN)/python -m proof.fuzz schema $(or $(CASES),20000)
	$(BIN)/python -m proof.fuzz parsers --seconds $(or $(SECONDS),120)

.PHONY: signin
signin: $(INSTALLED) ## Measure sign-in with known and unknown e-mails
	$(BIN)/python -m proof.fuzz signin

.venv/fuzz-installed: proof/fuzz/requirements.lock $(INSTALLED)
	$(PIP) install --require-hashes --requirement $<
	@touch $@

.PHONY: pictures
pictures: $(INSTALLED) browser ## Take the README's screenshots again
	$(BIN)/python docs/pictures/take.py

.PHONY: lock
lock: .venv/lock/bin/uv ## Lock the newest versions pyproject.toml allows, for every platform
	$< pip compile --quiet --universal --upgrade --generate-hashes --no-emit-index-url --no-emit-find-links \
		--extra dev --output-file requirements.lock pyproject.toml

# Every package comes from the lock file and is verified by its hash; building ours needs nothing else.
$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed. Name one: make PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	$(PIP) install --require-hashes --requirement requirements.lock
	$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

.venv/lock/bin/uv: | $(INSTALLED)
	$(BIN)/python -m venv .venv/lock
	.venv/lock/bin/python -m pip --quiet --disable-pip-version-check install uv

# Browser tests use the Chromium on the PATH; without one, Debian's package (as root) or Playwright's browser.
.PHONY: browser
browser: $(INSTALLED)
	@command -v chromium >/dev/null \
		|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
			&& apt-get update -qq && apt-get install -qq --yes --no-install-recommends chromium; } \
		|| $(BIN)/playwright install chromium

# Deployment; each target installs the tools it needs, or names what is missing.

.PHONY: manifests
manifests: $(INSTALLED) ## Render manifests, compose.yaml, bus accounts, dashboard and docs/events.md from what services declare
	$(BIN)/python -m deploy.render
	$(BIN)/python -m admitone.catalogue docs

.venv/deploy/installed: deploy/requirements.lock | $(INSTALLED)
	$(BIN)/python -m venv .venv/deploy
	.venv/deploy/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes --requirement $<
	@touch $@

.PHONY: validate
validate: .venv/deploy/installed ## Validate manifests, image and workflows with hadolint, checkov and zizmor
	deploy/validate.sh .venv/deploy/bin

.PHONY: containers
containers: $(INSTALLED) ## Build the image, run the Deployments with podman, complete a purchase; needs root
	$(BIN)/python -m deploy.containers.run

.PHONY: rolling
rolling: $(INSTALLED) ## Restart two replicas of every service under load; REQUESTS=10000
	$(BIN)/python -m deploy.rolling $(REQUESTS)

.PHONY: drill
drill: $(INSTALLED) ## Restore each service's database to an earlier time and recover it; SERVICES='orders tickets' selects some, --together restores all at once
	$(BIN)/python -m deploy.drill $(SERVICES)

# SEEDS is a number of seeds, or a range such as 500-1000.
SEEDS ?= 1000
.PHONY: simulate
simulate: $(INSTALLED) ## Simulate the marketplace with seeded faults; SEEDS=20000
	$(BIN)/python -m proof.simulation $(SEEDS)

.PHONY: simulate-mutants
simulate-mutants: $(INSTALLED) ## Remove one defence after the other: each must be detected within 3,000 seeds
	$(BIN)/python -m proof.simulation 3000 --mutants

.PHONY: chaos
chaos: $(INSTALLED) ## Inject faults into real processes under load; MINUTES=8, SEED=…
	$(BIN)/python -m proof.chaos --minutes $(or $(MINUTES),8) $(if $(SEED),--seed $(SEED))

.PHONY: chaos-hot
chaos-hot: $(INSTALLED) ## One ticket, a thousand concurrent buyers, twenty rounds
	$(BIN)/python -m proof.load stampede
