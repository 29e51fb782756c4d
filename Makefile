# make run: everything from a fresh clone to a running site. make test: every check. See README.md.

# The newest of the usual names; `make run PYTHON=...` names another.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv/bin

.PHONY: run test bench soak fuzz image-steps fmt lint setup audit sbom
.DEFAULT_GOAL := run

setup:
	@$(or $(PYTHON),python3) webapp/ops/bootstrap.py

run: setup
	@exec $(VENV)/python manage.py up

test:
	@$(or $(PYTHON),python3) webapp/ops/bootstrap.py --browser
	@exec $(VENV)/python -m tests.everything

lint: setup
	@exec $(VENV)/python -m tests.everything --lint

fmt: setup
	@$(VENV)/ruff check --fix --exit-zero -q
	@$(VENV)/ruff format

# make bench ONLY=engine measures one area.
bench: setup
	@exec $(VENV)/python -m tests.load.bench $(ONLY)

# make soak REQUESTS=2000 SEED=2: other than 20,000 requests of seed 1.
REQUESTS ?= 20000
SEED ?= 1
soak: setup
	@exec $(VENV)/python -m tests.load.soak $(REQUESTS) $(SEED)

# make fuzz CASES=500 SEED=2: other than 20,000 requests of seed 1.
CASES ?= 20000
fuzz: setup
	@exec $(VENV)/python -m tests.load.fuzz $(CASES) $(SEED)

# The images' own steps without Docker, into a fresh folder: some minutes and a network. IMAGE=worker-cpu: the other one.
IMAGE ?= web
image-steps: setup
	@exec $(VENV)/python -m tests.deploy.image_steps $(IMAGE)

# Known vulnerabilities of what constraints.txt pins; needs a network.
audit: setup
	@$(VENV)/python -m webapp.ops.audit

# What the site is made of, as CycloneDX JSON on stdout: make -s sbom > sbom.json
sbom: setup
	@$(VENV)/python -m webapp.ops.sbom
