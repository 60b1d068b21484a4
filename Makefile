# Every command a person types. `make help` lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

# One profile and one feature set for the demo and the tests, so that nothing is compiled twice.
CARGO ?= cargo
BUILD := $(CARGO) build --locked --workspace
# Outside of what git holds; removed by `cargo clean`.
TOOLS := target/tools
# Checks that could not run because something is missing add a line here; `make test` counts them.
export EVERGREEN_SKIPPED := $(CURDIR)/target/skipped.txt

WEB_SOURCES := $(shell find web -type f -not -path 'web/node_modules/*' -not -path 'web/dist/*' 2>/dev/null)

.PHONY: help setup demo test test-cluster test-network bench bench-report crds web lint fit-power-model

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 18

setup: ## Install what the tests need, or say what is missing
	@scripts/setup

demo: web ## Three simulated data centers, two incidents, an energy report; DEMO_FLAGS=--keep leaves the page up
	@echo "Building (the first build takes several minutes) ..."
	$(BUILD) --bins
	target/debug/evergreen demo $(DEMO_FLAGS)

test: ## Format, lint and run every test
	@scripts/test

test-cluster: web ## Only the tests on a real Kubernetes control plane
	@$(BUILD) --bins
	$(CARGO) test --locked -p evergreen-tests --test 'cluster_*' --test collector -- --test-threads=1 --nocapture
	scripts/test-kubelet || [[ $$? == 3 ]]

test-network: ## Only the network mesh in network namespaces with tc netem; needs root, takes minutes
	@$(BUILD) --bins
	EVERGREEN_TEST_NETWORK=1 $(CARGO) test --locked -p evergreen-tests --test mesh_namespaces -- --nocapture

.PHONY: test-traffic

test-traffic: ## Traffic actuators and grants on real Knot, BIND, PowerDNS and HAProxy, with pauses of 5 x D
	@$(BUILD) --bins
	EVERGREEN_TEST_TRAFFIC=1 $(CARGO) test --locked -p evergreen-tests --test traffic_actuators --test traffic_grants -- --nocapture

.PHONY: test-database

test-database: ## Database hooks on two real PostgreSQL servers: planned move, late call, lost site, return
	@$(BUILD) --bins
	$(CARGO) test --locked -p evergreen-tests --test database_postgres -- --nocapture

.PHONY: twin-suites twin-deviations twin-stories

twin-suites: web ## Run suites of others against a twin: kube-rs's own tests on a cluster, the JSON Patch suite
	@$(BUILD) --bin evergreen
	scripts/twin-suites

twin-deviations: ## Compare a twin with a real API server and write docs/twin-deviations.md
	@EVERGREEN_WRITE_DEVIATIONS=1 $(CARGO) test --locked -p evergreen-tests --test twin_differential -- --nocapture

twin-stories: ## Play the stories of twin/stories and write what happened beside them
	@EVERGREEN_WRITE_STORIES=1 $(CARGO) test --locked -p evergreen-tests --test twin_stories -- --nocapture

SEEDS ?= 1000000
JOBS ?= $(shell nproc)
simulate: ## A million simulated fleets against the failover protocol (hours, resumable); SEEDS=number for fewer, JOBS=cores
	@scripts/simulate $(SEEDS) $(JOBS)

.PHONY: model
model: ## Every placement of two and three faults against the failover protocol (an hour)
	@EVERGREEN_MODEL=deep $(CARGO) test --locked -p evergreen-quorum -- --nocapture --test-threads=1 model_of

.PHONY: test-failover bench-failover test-drills

test-failover: ## Failover on three real API servers: partitions, pauses, crashes; prints times beside targets; about 15 minutes
	@scripts/failover-real $(SCENARIOS)

test-drills: ## Every end-to-end test of drills on simulated data centers, the slow ones included; about 3 minutes
	@$(BUILD) --bins
	$(CARGO) test --locked -p evergreen-tests --test failover_drill -- --include-ignored --test-threads=1 --nocapture

bench-failover: ## Measure failover and write its section of docs/measured.md; SECTIONS="real simulation replan groups"
	@scripts/bench-failover $(SECTIONS)

bench: web ## Measure, print ratios, and write them to docs/measured.md
	@scripts/bench

.PHONY: storm fuzz bench-agent

storm: ## 10,000 matching lines a second through the real /dev/kmsg for STORM_SECONDS (300): counts, latency, cost; needs root
	@$(CARGO) build --locked --release -p evergreen-agent --bin evergreen-agent --example storm
	target/release/examples/storm target/release/evergreen-agent $${STORM_SECONDS:-300}

fuzz: ## Feed every parser of outside bytes with changed seeds for FUZZ_SECONDS (60) each
	@EVERGREEN_FUZZ_SECONDS=$${FUZZ_SECONDS:-60} $(CARGO) test --locked -p evergreen-agent --test fuzz -- --test-threads=1 --nocapture

bench-agent: ## The agent and its peers on a node with 1,000 processes and 110 pods: memory and processor
	@scripts/bench-agent

bench-report: ## A report over 1,000 nodes x 1 year of hours: time and peak memory
	@scripts/bench-report

.PHONY: catalogue

catalogue: ## Write docs/playbook-catalogue.md and its Chinese page from the library
	@$(CARGO) build --locked -p evergreen-cli --bin evergreen
	target/debug/evergreen playbook catalogue playbooks/library --lang en >docs/playbook-catalogue.md
	target/debug/evergreen playbook catalogue playbooks/library --lang zh >docs/playbook-catalogue.zh-CN.md

crds: ## Write the custom resource definitions and the shipped playbooks into the chart
	@$(BUILD) --bin evergreen
	scripts/chart-crds target/debug/evergreen charts/evergreen

.PHONY: images
images: web ## Build the four images without a Docker daemon, static and reproducible, into target/images; needs buildah
	scripts/images

.PHONY: bundle
bundle: images ## One archive for installing without the Internet: images, chart, command, list of parts, checksums
	scripts/bundle

.PHONY: test-images
test-images: ## The images of `make images` as pods on a real kubelet: install, helm test, cordon, uninstall; needs root
	scripts/test-images

.PHONY: schema
schema: ## Write the JSON Schema of playbook files to docs/playbook.schema.json, for editors
	@$(BUILD) --bin evergreen
	@target/debug/evergreen playbook schema >docs/playbook.schema.json

.PHONY: test-kubelet check-idle-split measure-agent

test-kubelet: ## The agent as a pod without capabilities on a real kubelet, with a simulated powercap tree; needs root
	@$(CARGO) build --locked -p evergreen-agent --bin evergreen-agent
	scripts/test-kubelet || [[ $$? == 3 ]]

measure-agent: ## CPU and memory of the agent with 500 pods and 5,000 processes, health on
	@$(CARGO) build --locked --release -p evergreen-agent --bin evergreen-agent
	scripts/measure-agent

check-idle-split: ## How well idle power is found at 10 to 30 % load on the servers of POWER_TABLE
	@EVERGREEN_POWER_TABLE="$$(readlink -f "$(POWER_TABLE)")" $(CARGO) test --locked -q -p evergreen-agent --test idle_split -- --nocapture

POWER_TABLE ?= ../shared/corpora/power/specpower.csv
FIT_DATE ?= $(shell date +%F)
fit-power-model: ## Fit the power model anew; POWER_TABLE=published results, FIT_DATE=date to write into it
	@scripts/fit-power-model "$(POWER_TABLE)" --date "$(FIT_DATE)"

lint: web ## Format check and clippy, warnings as errors
	@$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

web: web/dist/index.html ## Build the plane's page

web/node_modules/.package-lock.json: web/package-lock.json web/package.json
	@cd web && npm ci --no-audit --no-fund
	touch node_modules/.package-lock.json

web/dist/index.html: web/node_modules/.package-lock.json $(WEB_SOURCES)
	@cd web && npm run build
	touch dist/index.html

.PHONY: bench-twin

bench-twin: ## A twin of 5,000 nodes and 150,000 pods: patches/s, memory, lists, watches, forks, a day; writes docs/measured.md
	@scripts/bench-twin

.PHONY: test-storms

test-storms: ## 10,000 random storms against the planner's budgets and as many crashing runs; STORMS=number for fewer
	@EVERGREEN_STORMS=$${STORMS:-10000} $(CARGO) test --locked -p evergreen-playbooks --lib -- --nocapture storm whatever_crashes

.PHONY: test-plane-crash test-producers

test-plane-crash: ## kill -9 the plane KILLS (100) times under load: no acknowledged record may be lost
	@EVERGREEN_CRASHES=$${KILLS:-100} $(CARGO) test --locked -p evergreen-plane --test crash -- --nocapture nothing_acknowledged

test-producers: ## OpenTelemetry's SDKs of Python and Node, and a collector, against a real plane
	@$(BUILD) --bin evergreen-plane
	scripts/test-producers

.PHONY: bench-plane

bench-plane: ## Ingest of the plane and of VictoriaMetrics on the same points, the fleet page, a month of energy; writes docs/measured.md
	@scripts/bench-plane
