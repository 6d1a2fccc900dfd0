# All commands for working on the repository. "make help" lists the targets.
SHELL := /bin/sh
GO ?= go
# The toolchain of go.mod, also on a machine whose GOTOOLCHAIN is "local".
export GOTOOLCHAIN := $(shell sed -n 's/^toolchain //p' go.mod)
BIN := bin
MODULE := github.com/mayfly-ca/mayfly
GOLANGCI_VERSION := v2.15.0
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# Tests are built without the profile: with it, every dependency is compiled a second time.
NOPGO := -pgo=off
# "make lint" runs go vet. As a part of the tests, it would analyse every dependency too, as soon as the cache is cold.
NOVET := -vet=off
# Of the tests of one package. The slowest ones need 4 minutes on two idle processors, and several times that on busy ones.
TEST_TIMEOUT := 20m
# The race detector needs a C compiler.
RACE := $(shell command -v $$($(GO) env CC) >/dev/null 2>&1 && echo -race)
# The linters load packages as the tests have compiled them; with other flags, every dependency is compiled again.
AS_TESTS := GOFLAGS='$(strip $(NOPGO) $(RACE))'

.PHONY: help dev build hsm test race check lint generate check-generate breaking fuzz bench bench-save bench-reconcile pgo
.PHONY: release release-modules check-release build-fips soak crash crowd shadow mutants outdated alerts e2e e2e-all
.PHONY: e2e-keys e2e-packages e2e-kube e2e-shared replicas openapi-clients clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: build ## run a complete private Sigstore on this machine, with nothing to configure
	@exec $(BIN)/mayfly dev

build: ## build bin/mayfly, a static binary that needs no C compiler
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-X $(MODULE)/internal/version.release=$(VERSION)" -o $(BIN)/mayfly ./cmd/mayfly

hsm: ## build bin/mayfly-hsm, the signer for PKCS#11 tokens; needs a C compiler
	@command -v $$($(GO) env CC) >/dev/null 2>&1 || { echo "mayfly-hsm needs a C compiler: install gcc"; exit 1; }
	@CGO_ENABLED=1 $(GO) build -trimpath -ldflags "-X $(MODULE)/internal/version.release=$(VERSION)" -o $(BIN)/mayfly-hsm ./cmd/mayfly-hsm

# The module of Go's FIPS 140-3 validation; "go doc crypto/fips140" says which exist.
FIPS140 ?= v1.26.0
build-fips: ## build bin/mayfly-fips, which uses Go's FIPS 140-3 module
	@CGO_ENABLED=0 GOFIPS140=$(FIPS140) $(GO) build -trimpath \
		-ldflags "-X $(MODULE)/internal/version.release=$(VERSION)" \
		-o $(BIN)/mayfly-fips ./cmd/mayfly

$(BIN)/mayfly-bench: build # the load tool
	@$(GO) build -trimpath -ldflags "-X $(MODULE)/internal/version.release=$(VERSION)" -o $@ ./cmd/mayfly-bench

# A running instance that signs, and other flags of the release program: see docs/releasing.md.
RELEASE ?=
DIST ?= dist
release: ## make a release of the commit in dist/: programs, archives, packages, image, SBOMs, provenance, checksums, signatures
	cd release && $(GO) run . -root .. -out $(abspath $(DIST)) $(if $(MODIFIED),-modified) $(RELEASE)

release-modules: ## fetch the modules that make release needs; it then works offline
	cd release && $(GO) run . -root .. -fetch

check-release: ## make the release of the commit twice, in two folders, with an empty build cache, and compare every byte (half an hour)
	cd release && MAYFLY_RELEASE=1 $(GO) test -count=1 -timeout 4h -run 'TestRelease|TestWholeRelease' -v ./dist

test: ## run all tests of the product; with the race detector if there is a C compiler
	@if [ -n "$(RACE)" ]; then echo "tests with the race detector"; else echo "tests without the race detector: no C compiler"; fi
	$(GO) test $(NOPGO) $(NOVET) $(RACE) -timeout $(TEST_TIMEOUT) ./...
	cd release && $(GO) test $(NOPGO) $(NOVET) $(RACE) -timeout $(TEST_TIMEOUT) ./...

race: ## run all tests with the race detector; an error without a C compiler
	CGO_ENABLED=1 $(GO) test $(NOPGO) $(NOVET) -race -timeout $(TEST_TIMEOUT) ./...
	cd release && CGO_ENABLED=1 $(GO) test $(NOPGO) $(NOVET) -race -timeout $(TEST_TIMEOUT) ./...

check: race lint check-generate breaking outdated ## run what CI runs

outdated: ## list direct dependencies behind their newest version; an error without a reason in go.mod
	@$(GO) run ./testkit/outdated . e2e release tools

lint: $(BIN)/golangci-lint ## run go vet and golangci-lint
	$(AS_TESTS) $(GO) vet ./...
	cd e2e && $(GO) vet ./... && $(GO) vet -tags all,keys,kube,openapi,packages ./...
	cd release && $(AS_TESTS) $(GO) vet ./...
	$(AS_TESTS) $(BIN)/golangci-lint run ./...
	cd release && $(AS_TESTS) ../$(BIN)/golangci-lint run ./...

$(BIN)/golangci-lint:
	GOBIN=$(CURDIR)/$(BIN) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

GENERATORS := buf protoc-gen-go protoc-gen-go-grpc protoc-gen-grpc-gateway protoc-gen-openapiv2
$(BIN)/buf: tools/go.mod
	cd tools && GOBIN=$(CURDIR)/$(BIN) $(GO) install github.com/bufbuild/buf/cmd/buf google.golang.org/protobuf/cmd/protoc-gen-go \
		google.golang.org/grpc/cmd/protoc-gen-go-grpc github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway \
		github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-openapiv2
	@touch $(BIN)/buf

generate: $(BIN)/buf ## generate code and the OpenAPI document from proto/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/buf generate
	$(GO) test $(NOPGO) -count=1 ./proto/openapi -update

check-generate: generate ## check that the generated files are current
	@git diff --exit-code -- proto || { echo "proto/: run make generate and commit"; exit 1; }

breaking: $(BIN)/buf ## check that the API is compatible with the last release
	$(BIN)/buf lint
	$(BIN)/buf breaking --against proto/released.binpb

FUZZTIME ?= 30s
fuzz: ## run every fuzz target for FUZZTIME each
	@for p in $$($(GO) list ./...); do for f in $$($(GO) test -list '^Fuzz' $$p | grep ^Fuzz); do \
		echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done

BENCHSTAT := golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
BASELINE := docs/bench.txt
bench: build ## measure certificates per second, latency and CPU over the cost of the cryptography, beside the saved run (some minutes)
	MAYFLY=$(CURDIR)/$(BIN)/mayfly $(GO) test $(NOPGO) -run '^$$' -bench BenchmarkServe -benchtime 2s ./cmd/mayfly-bench > $(BIN)/bench.txt || { cat $(BIN)/bench.txt; exit 1; }
	@awk '/^Benchmark/ { split("", v); for (i = 3; i < NF; i += 2) v[$$(i+1)] = $$i; \
		if (!n++) printf "%-58s %8s %8s %8s %10s %8s %9s %12s\n", "", "certs/s", "p50 ms", "p99 ms", "cpu/floor", "RSS MB", "of peak", "refusal p99"; \
		sub(/^BenchmarkServe\//, "", $$1); printf "%-58s %8.0f %8.2f %8.2f %10.2f %8.0f", $$1, v["certs/s"], v["p50-ms"], v["p99-ms"], v["cpu/floor"], v["peak-rss-MB"]; \
		if ("goodput/peak" in v) printf " %8.0f%% %9.1f ms", 100 * v["goodput/peak"], v["refusal-p99-ms"]; print "" }' $(BIN)/bench.txt
	@$(GO) run $(BENCHSTAT) -filter '.unit:(cpu/floor OR peak-rss-MB)' saved=$(BASELINE) now=$(BIN)/bench.txt

bench-save: bench ## save this run for later comparisons
	grep -E '^(goos|goarch|pkg|cpu|Benchmark)' $(BIN)/bench.txt > $(BASELINE)

PGO := cmd/mayfly/default.pgo
pgo: $(BIN)/mayfly-bench ## record the profile for the compiler's optimisation
	$(BIN)/mayfly-bench --log-level info --grpc on --callers 32 --step 20s --cpu-profile $(BIN)/grpc.pprof
	$(BIN)/mayfly-bench --log-level info --callers 32 --step 20s --cpu-profile $(BIN)/rest.pprof
	$(BIN)/mayfly-bench --log-level info --grpc on --embedded --callers 32 --step 20s --cpu-profile $(BIN)/embedded.pprof
	$(GO) tool pprof -proto -output $(PGO) $(BIN)/grpc.pprof $(BIN)/rest.pprof $(BIN)/embedded.pprof
	@test $$(wc -c < $(PGO)) -lt 1048576 || { echo "$(PGO) is larger than 1 MiB: record for a shorter time"; exit 1; }

SOAK_STEP ?= 1m
SOAK_CERTS ?= 2000000
soak: $(BIN)/mayfly-bench ## issue many certificates in one run (SOAK_CERTS, at most 20 steps of SOAK_STEP), and show whether memory grows
	$(BIN)/mayfly-bench --grpc on --callers 64$$(printf ',64%.0s' 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19) --step $(SOAK_STEP) --max-requests $(SOAK_CERTS)

CRASH ?= 12
crash: ## fail each system call of the logs in this process and each write of a TUF repository, and change each byte of a journal
	@command -v strace >/dev/null || apt-get install -y strace || echo "strace is not here and could not be installed: the test skips itself"
	MAYFLY_CRASH=$(CRASH) $(GO) test -count=1 -timeout 60m -parallel 4 -run 'TestFaults|TestFullDisk|TestKilled|TestRotationKilled|TestStorageFails' -v ./ctlog/embedded ./tlog
	MAYFLY_CRASH=$(CRASH) $(GO) test $(NOPGO) -count=1 -timeout 60m \
		-run 'TestTUFCrash|TestTUFTampered|TestTUFReplaced|TestEveryByte' ./trust ./journal

ONLY ?=
mutants: ## plant small defects one at a time, and report those that no test detects; ONLY=area, or ONLY="area: words"
	$(GO) run ./testkit/mutants $(if $(ONLY),-only "$(ONLY)")

SHADOW ?= 100000
shadow: ## send SHADOW requests with 20 planted differences through "mayfly shadow", and measure how much longer callers wait (some 10 minutes)
	MAYFLY_SHADOW=$(SHADOW) $(GO) test $(NOPGO) -count=1 -timeout 60m -p 1 -parallel 1 \
		-run 'TestLoad|TestShadowLatency' -v ./shadow ./cmd/mayfly

CROWD ?= 10000
crowd: ## open CROWD idle, half-sent or flooding connections from one address while another client signs (some 10 minutes)
	MAYFLY_CROWD=$(CROWD) $(GO) test $(NOPGO) -count=1 -timeout 60m -run TestCrowd -v ./cmd/mayfly | grep -v '^=== '

bench-reconcile: ## measure time and peak memory of the audit of a log with a million entries
	$(GO) test -run '^$$' -bench BenchmarkReconcile -benchtime 1x -timeout 60m -v ./cmd/mayfly

alerts: ## check the rules of Prometheus, and run the unit tests of the alerts; needs promtool (package prometheus)
	cd deploy/prometheus && promtool check config prometheus.yml && promtool check rules rules.yml alerts.yml && \
		promtool test rules alerts_test.yml

e2e: build ## run real clients, logs and services against the real binary
	cd e2e && $(GO) run ./cmd/prepare && $(GO) test -count=1 -timeout 15m ./...

e2e-keys: build hsm ## run the CA on real places of keys; needs python3, a C compiler, and softhsm2 and opensc of the package manager
	cd e2e && $(GO) test -count=1 -timeout 40m -tags keys -run TestKeys -v ./...

e2e-packages: build ## install, upgrade and remove the packages on machines with systemd; needs root, systemd-container, nginx and rpm
	cd e2e && $(GO) test -count=1 -timeout 40m -tags packages -run TestPackages -v .

e2e-kube: build ## render the Helm chart, check the result, and apply it to a real API server; UPDATE=1 writes deploy/kubernetes anew
	cd e2e && $(GO) test -count=1 -timeout 60m -tags kube -run TestKubernetes $(if $(UPDATE),. -update,.)

e2e-shared: ## count in real Valkey servers that are killed, stopped, emptied, filled and failed over; needs python3
	python3 -m venv e2e/.cache/valkey
	e2e/.cache/valkey/bin/pip install --quiet --requirement e2e/clients/valkey/requirements.txt
	MAYFLY_VALKEY=$$(find $$PWD/e2e/.cache/valkey -name valkey-server -type f | head -1) \
		$(GO) test $(NOPGO) -count=1 -timeout 10m -run TestValkey -v ./server/shared | grep -v '^=== '

REPLICAS ?= 10m
replicas: build ## load three servers, a balancer, two logs and a store for REPLICAS, while each part fails in turn
	cd e2e && $(GO) run ./cmd/prepare
	cd e2e && MAYFLY_REPLICAS=$(REPLICAS) $(GO) test -count=1 -timeout 60m -run TestReplicas -v .

openapi-clients: ## run clients generated from /openapi.json (Python, TypeScript) against the real binary; needs python3 and npm
	cd e2e && $(GO) test -count=1 -timeout 20m -tags openapi -run TestOpenAPIClients ./...

e2e-all: build ## run every real client and walk-through, one by one; continues where it stopped, and writes docs/compatibility.md
	cd e2e && $(GO) run ./cmd/all $(if $(ONLY),-only $(ONLY))

clean: ## remove build results; .mayfly-dev stays
	rm -rf $(BIN) $(DIST)
