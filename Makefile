# Everything here works on a fresh Debian machine with Go and Python: what else is needed, `make tools` installs.
SHELL := /bin/bash
ARGS ?=
FUZZTIME ?= 10s
COMPONENTS := $(patsubst %/metadata.yaml,%,$(wildcard processors/*/metadata.yaml collector/*/metadata.yaml))
GENERATED := deploy/schema policy/testdata xds/testdata lint/testdata diff/testdata importer/testdata docs/validate.md docs/diff.md docs/import.md $(COMPONENTS)

all: build lint test

tools: ## Envoy, the S3 server, Redis, envoyproxy/ratelimit, the linter and the collector builder, pinned, into ~/.cache/weir
	@tools/install.sh

build: ## bin/weir and bin/weir-collector
	go build -trimpath -o bin/ ./cmd/...
	@install -D "$$(tools/collector.sh)" bin/weir-collector

test: tools lint race bench-smoke stale ## everything: what CI runs

race: build ## every test with the race detector, the end-to-end tests among them
	go test -race -timeout 25m ./...
	go test ./internal/nowait ./internal/h2 # which reach sockets by another way where nothing is watched

lint: tools
	go vet ./...
	"$$(tools/install.sh golangci-lint)/golangci-lint" run ./...

golden: ## rewrite generated files and the wanted output of the golden tests
	go test ./policy ./xds ./lint ./diff ./importer ./cmd/weir -update

components: ## what the collector's builder of components makes of each metadata.yaml
	@mdatagen=$$(tools/install.sh mdatagen)/mdatagen; for c in $(COMPONENTS); do (cd $$c && "$$mdatagen" metadata.yaml) || exit 1; done

stale: components ## generated files are as their generators make them
	@test -z "$$(git status --porcelain $(GENERATED))" || { git status --short $(GENERATED); echo "generated files changed: commit them"; exit 1; }

fuzz: ## each fuzz target for FUZZTIME; with a test run, and so in CI, each runs with what it begins with
	@set -e; for f in $$(grep -rl --include='*_test.go' '^func Fuzz' .); do for x in $$(sed -n 's/^func \(Fuzz[A-Za-z]*\)(.*/\1/p' $$f); do \
		echo "$$x of $$(dirname $$f)"; go test -run '^$$' -fuzz "^$$x\$$" -fuzzminimizetime 10x -fuzztime $(FUZZTIME) ./$$(dirname $$f); done; done

bench:
	go test -run '^$$' -bench . -benchmem ./...

bench-smoke: build ## each benchmark once, and a small fleet on each control plane
	cd bench && go vet ./... && go run ./xds -services 20 -proxies 20 -rounds 1 && go run ./ratelimit -planes floor,peer,peer-cache,weir,weir-redis,weir-lease -for 100ms -in-flight 16
	cd bench && go run ./ratelimit -scenario faults -planes program -for 300ms -rate 100 && go run ./ratelimit -scenario flood -planes memory,volatile-ttl -for 300ms
	cd bench && go test -run '^$$' -bench . -benchtime 1x ./limits
	cd bench && go run ./collector -warm 100ms -for 300ms
	go test -run '^$$' -bench . -benchtime 1x ./... | grep -v 'no test files'

e2e: build ## a real Envoy against a real weir
	go test -count 1 -v ./e2e/...

demo: tools build
	@bin/demo $(ARGS)

clean:
	rm -rf bin _build

.PHONY: all tools build test race lint golden components stale fuzz bench bench-smoke e2e demo clean
