# The words of a developer's day; `make` alone lists them. All that is needed: Python 3.11 or newer, make, a package index.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done)
BIN := .venv/bin
INSTALLED := .venv/installed
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# One worker a core is too many: every worker brings its own PostgreSQL along.
WORKERS ?= 2

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: $(INSTALLED) ## Start the whole marketplace on this machine
	$(BIN)/admitone up

.PHONY: test
test: $(INSTALLED) browser ## Run the tests; TESTS='tests/orders -k expire' runs some of them
	$(BIN)/pytest --numprocesses $(WORKERS) $(TESTS)

.PHONY: check
check: $(INSTALLED) browser ## All that must hold before a commit: format, lint, types, import contracts, tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --numprocesses $(WORKERS)

.PHONY: bench
bench: $(INSTALLED) ## Measure speed beside the database's own limit; PARTS='storm poison soak' what it must bear
	$(BIN)/python -m proof.load $(PARTS)

.PHONY: fix
fix: $(INSTALLED) ## Format, and mend what the linter can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: fuzz
fuzz: .venv/fuzz-installed ## Hostile input: REQUESTS=1000000 mutated ones, CASES=20000 of the API, SECONDS=120 a parser
	$(BIN)/python -m proof.fuzz requests --count $(or $(REQUESTS),1000000)
	$(BIN)/python -m proof.fuzz schema $(or $(CASES),20000)
	$(BIN)/python -m proof.fuzz parsers --seconds $(or $(SECONDS),120)

.PHONY: signin
signin: $(INSTALLED) ## What signing in costs a known and an unknown e-mail
	$(BIN)/python -m proof.fuzz signin

.venv/fuzz-installed: requirements-fuzz.lock $(INSTALLED)
	$(PIP) install --require-hashes --requirement $<
	@touch $@

.PHONY: pictures
pictures: $(INSTALLED) browser ## Take the README's pictures anew, from a marketplace started for it
	$(BIN)/python -m tools.pictures

.PHONY: lock
lock: .venv/lock/bin/uv ## Choose the newest versions that pyproject.toml allows, for every platform
	$< pip compile --quiet --universal --upgrade --generate-hashes --no-emit-index-url --no-emit-find-links \
		--extra dev --output-file requirements.lock pyproject.toml

# Every package comes from the lock file, checked by its hash; building our own needs nothing that is not in it.
$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed. Name one: make PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	$(PIP) install --require-hashes --requirement requirements.lock
	$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

.venv/lock/bin/uv: | $(INSTALLED)
	$(BIN)/python -m venv .venv/lock
	.venv/lock/bin/python -m pip --quiet --disable-pip-version-check install uv

# The browser tests take the machine's Chromium; where there is none, Debian's (as root) or else Playwright's own.
.PHONY: browser
browser: $(INSTALLED)
	@command -v chromium >/dev/null \
		|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
			&& apt-get update -qq && apt-get install -qq --yes --no-install-recommends chromium; } \
		|| $(BIN)/playwright install chromium

# What follows concerns deployment; each brings the tools it needs, or says which is missing.

.PHONY: manifests
manifests: $(INSTALLED) ## Write anew what is rendered from deploy/: manifests, accounts of the bus, dashboard
	$(BIN)/python deploy/kubernetes/base/nats/users.py
	$(BIN)/python deploy/kubernetes/render.py
	$(BIN)/python deploy/monitoring/make_dashboard.py

.venv/deploy/installed: requirements-deploy.lock | $(INSTALLED)
	$(BIN)/python -m venv .venv/deploy
	.venv/deploy/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes --requirement $<
	@touch $@

.PHONY: validate
validate: .venv/deploy/installed ## Validate manifests, image and workflows with hadolint, checkov and others
	deploy/validate.sh .venv/deploy/bin

.PHONY: containers
containers: $(INSTALLED) ## Build the image, run the Deployments with podman, complete a purchase; needs root
	$(BIN)/python -m deploy.containers.run

.PHONY: rolling
rolling: $(INSTALLED) ## Restart two replicas of every service under load; REQUESTS=10000
	$(BIN)/python -m deploy.rolling $(REQUESTS)

.PHONY: drill
drill: $(INSTALLED) ## Restore one database to a moment ago, and bring the marketplace back in order
	$(BIN)/python -m deploy.drill

# Seeds are a number, or first and last: SEEDS=500-1000.
SEEDS ?= 1000
.PHONY: simulate
simulate: $(INSTALLED) ## Live the marketplace through with seeded faults; SEEDS=20000
	$(BIN)/python -m proof.simulation $(SEEDS)

.PHONY: simulate-mutants
simulate-mutants: $(INSTALLED) ## Take one defence away after the other: each must be noticed within 3,000 seeds
	$(BIN)/python -m proof.simulation 3000 --mutants

.PHONY: chaos
chaos: $(INSTALLED) ## Break all that real processes stand on, under load; MINUTES=8, SEED=…
	$(BIN)/python -m proof.chaos --minutes $(or $(MINUTES),8) $(if $(SEED),--seed $(SEED))

.PHONY: chaos-hot
chaos-hot: $(INSTALLED) ## One ticket, a thousand buyers at once, twenty rounds
	$(BIN)/python -m proof.chaos hot
