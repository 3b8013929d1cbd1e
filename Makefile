# Portcullis. `make help` lists every target.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X portcullis.dev/portcullis/cmd/internal/cli.version=$(VERSION) -X portcullis.dev/portcullis/cmd/internal/cli.commit=$(COMMIT)
GOBUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=false
LAB     := bin/lab

# Modules of this repository that are tested; the lab's components only build other projects' programs.
UNIT_MODULES := . deploy/compose deploy/image deploy/lab
# Packages that start the lab: they have targets of their own.
ON_THE_LAB := /deploy/lab/(e2e|bench|bench/migration|migrations)$$

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Build
.PHONY: build build-dev build-lab image compose
build: ## Build bin/portcullis
	$(GOBUILD) -ldflags '$(LDFLAGS)' -o bin/portcullis ./cmd/portcullis

build-dev: ## Build bin/portcullis-dev (the same, with Temporal's server and UI inside)
	cd cmd/portcullis-dev && $(GOBUILD) -ldflags '$(LDFLAGS)' -o ../../bin/portcullis-dev .

build-lab: ## Build bin/lab
	cd deploy/lab && $(GOBUILD) -ldflags '-s -w' -o ../../bin/lab .

IMAGE_ARCHES ?= amd64 arm64
image: ## Build the container image into bin/image, without a container engine: an OCI archive, and one for docker load for each of IMAGE_ARCHES
	for arch in $(IMAGE_ARCHES); do GOARCH=$$arch $(GOBUILD) -ldflags '$(LDFLAGS)' -o bin/image/$$arch/portcullis ./cmd/portcullis; done
	cd deploy/image && go run ./build -out ../../bin/image -version $(VERSION) -revision $(COMMIT) -created "$$(git log -1 --format=%cI)" \
	  $(foreach arch,$(IMAGE_ARCHES),$(arch)=../../bin/image/$(arch)/portcullis)

# The folder is closed to others, and what is in it is not: containers read it as users of their own.
SECRETS  := deploy/compose/secrets
ENV_FILE := .env
compose: ## Make what docker-compose.yml wants and the repository has not: passwords, the daemon's files, the image's version
	@mkdir -p $(SECRETS)/portcullis && chmod 700 $(SECRETS) && chmod 755 $(SECRETS)/portcullis
	@for s in postgres_password grafana_password; do test -s $(SECRETS)/$$s || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >$(SECRETS)/$$s; done
	@test -e $(SECRETS)/portcullis/server.yaml || { cp deploy/compose/server.yaml $(SECRETS)/portcullis/; echo "change $(SECRETS)/portcullis/server.yaml"; }
	@test -s $(SECRETS)/portcullis/rancher-token || { touch $(SECRETS)/portcullis/rancher-token; echo "write Rancher's token into $(SECRETS)/portcullis/rancher-token"; }
	@chmod 644 $(SECRETS)/*_password $(SECRETS)/portcullis/*
	@touch $(ENV_FILE) && sed -i '/^PORTCULLIS_VERSION=/d' $(ENV_FILE) && echo PORTCULLIS_VERSION=$(VERSION) >>$(ENV_FILE)

##@ The lab: real clusters on this machine (needs root)
.PHONY: lab-build lab-up lab-status lab-down lab-kubeconfig
lab-build: build-lab ## Build Kubernetes, Calico, Fleet, etcd and CoreDNS for the lab (long the first time)
	$(LAB) build

lab-up: build-lab ## Start the lab: management, dev, staging and prod clusters
	$(LAB) up

lab-status: build-lab ## Show the lab's clusters, nodes and resources
	$(LAB) status

lab-down: build-lab ## Remove everything that the lab made, also after a crash
	$(LAB) down

lab-kubeconfig: build-lab ## Print the path of a kubeconfig: make lab-kubeconfig CLUSTER=dev
	@$(LAB) kubeconfig $(CLUSTER)

##@ See it work
.PHONY: demo demo-down
demo: build-lab ## Start the lab and Portcullis, promote a good revision, stop two bad ones, leave all up to look at
	$(LAB) build
	$(MAKE) --no-print-directory build build-dev
	cd deploy/lab && $(GOBUILD) -o ../../bin/demo ./demo
	bin/demo

demo-down: build-lab ## Remove the demo and the lab
	$(LAB) down

##@ Test
.PHONY: test prometheus test-unit test-dev test-e2e test-faults test-migrations bench bench-slack fuzz
test: lab-build prometheus test-unit test-dev test-e2e ## Run every test: unit, property, replay, and end-to-end on the lab

prometheus: ## Fetch Debian's prometheus and promtool into bin, for the tests of alerts and dashboard (installs nothing)
	@{ command -v prometheus && command -v promtool; } >/dev/null || test -x bin/promtool || { dir=$$(mktemp -d); trap 'rm -rf '$$dir EXIT; \
	  chmod 755 $$dir; (cd $$dir; apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }; dpkg-deb -x prometheus_*.deb .) && \
	  mkdir -p bin && install $$dir/usr/bin/prometheus $$dir/usr/bin/promtool bin/; } || echo "prometheus cannot be fetched here: the tests that need it are skipped"

test-unit: ## Unit, property, workflow and replay tests, with the race detector
	@for m in $(UNIT_MODULES); do echo "== $$m"; (cd $$m && go vet ./... && go test -race -timeout 20m $$(go list ./... | grep -vE '$(ON_THE_LAB)')); done

test-dev: ## Tests of the embedded Temporal server, and of a daemon on it (built as build-dev does; `make vet` vets it)
	cd cmd/portcullis-dev && CGO_ENABLED=0 go test -vet=off -trimpath -buildvcs=false -timeout 10m ./...

test-e2e: build-lab ## End-to-end tests on the lab, rollouts and then a migration (starts it for each, and takes it down again)
	$(LAB) build
	$(MAKE) --no-print-directory build build-dev
	cd deploy/lab && go test -count=1 -p 1 -timeout 60m -v ./e2e ./migrations

test-faults: build-lab ## Break the lab's Canal cluster in every way and see it repaired (starts it, and takes it down again)
	$(LAB) build
	cd deploy/lab && PORTCULLIS_LAB_FAULTS=1 go test -count=1 -timeout 40m -v ./faults

test-migrations: build-lab ## Every way back of a migration, and every fault on the way: takes hours (starts the lab, and takes it down again)
	$(LAB) build
	$(MAKE) --no-print-directory build build-dev
	cd deploy/lab && PORTCULLIS_LAB_MIGRATIONS=1 go test -count=1 -timeout 10h -v ./migrations

bench: build-lab ## Measure the figures of docs/figures.md, each beside what it is compared with
	$(LAB) build
	$(MAKE) --no-print-directory build build-dev
	cd deploy/lab && go test -count=1 -timeout 60m -run '^$$' -bench . -benchtime 1x -v ./bench
	cd deploy/lab && go test -count=1 -timeout 120m -run '^$$' -bench . -benchtime 1x -v ./bench/migration
	$(MAKE) --no-print-directory bench-slack
	cd deploy/image && go test -count=1 -run '^$$' -bench . -benchtime 1x

bench-slack: build-dev ## Two people approve in Slack, a hundred gates are pressed, 10,000 requests are forged: Slack's protocol and Temporal real, its servers on this machine
	@dir=$$(mktemp -d); bin/portcullis-dev temporal --db $$dir/temporal.db --temporal-port 17233 --ui-port 18233 >$$dir/log 2>&1 & \
	pid=$$!; trap "kill $$pid; rm -rf $$dir" EXIT; \
	for i in $$(seq 60); do (exec 3<>/dev/tcp/127.0.0.1/17233) 2>/dev/null && break; sleep 1; done; \
	go test -count=1 -timeout 20m -run '^TestTwoPeopleApproveInSlack$$' -bench . -benchtime 1x -v ./cmd/internal/slackapp -args -temporal 127.0.0.1:17233
	go test -count=1 -timeout 20m -run '^$$' -bench BenchmarkAudit -benchtime 1x -v ./activities/audit

fuzz: ## Fuzz each parser for a short while
	@set -e; for t in $$(grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$t/*_test.go | cut -c6-); do echo "== $$t $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime 20s ./$$t; done; done

##@ Care
.PHONY: fmt vet lint vulncheck record
fmt: ## Format all Go files
	gofmt -w $$(git ls-files '*.go')

vet: ## Vet every module
	@for m in $(UNIT_MODULES) cmd/portcullis-dev; do (cd $$m && go vet ./...); done

lint: ## gofmt, vet, staticcheck and what else .golangci.yml names
	@for m in $(UNIT_MODULES) cmd/portcullis-dev; do (cd $$m && go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run ./...); done

vulncheck: ## Look for known vulnerabilities (needs the public vulnerability database)
	go run golang.org/x/vuln/cmd/govulncheck@latest ./...

record: build-dev ## Record the histories that the replay tests use (SCENARIO=name for one)
	@dir=$$(mktemp -d); bin/portcullis-dev temporal --db $$dir/temporal.db --temporal-port 17233 --ui-port 18233 >$$dir/log 2>&1 & \
	pid=$$!; trap "kill $$pid; rm -rf $$dir" EXIT; \
	for i in $$(seq 60); do (exec 3<>/dev/tcp/127.0.0.1/17233) 2>/dev/null && break; sleep 1; done; \
	go test -count=1 ./workflows/replay -run '^TestRecord$$/$(if $(SCENARIO),^$(SCENARIO)$$)' -record 127.0.0.1:17233
