# `make` lists the targets. Everything a target needs is in the repo or fetched by it; what it wants from the machine
# it says.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  = -s -w -X main.version=$(VERSION)
FUZZTIME ?= 60

# The version is stamped by LDFLAGS; go's own stamp would fail in a clone that belongs to another user.
export GOFLAGS := $(strip $(GOFLAGS) -buildvcs=false)

# The committed kernel objects were built by Debian 12's clang. Another one gives other bytes.
CLANG_MAJOR  := 14
CLANG        := $(firstword $(shell command -v clang-$(CLANG_MAJOR) clang 2>/dev/null))
CLANG_FORMAT := $(firstword $(shell command -v clang-format-$(CLANG_MAJOR) clang-format 2>/dev/null))
BPF_SOURCES  := $(wildcard bpf/*.bpf.c bpf/include/*.h)

.DEFAULT_GOAL := help
.PHONY: help run build generate docs check-clang fmt check-fmt lint test test-vm race bench fuzz clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## build slid and print the service levels of this host
	@./bin/slid sli

build: ## build the static binary bin/slid
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/slid ./cmd/slid

generate: check-clang ## compile bpf/*.bpf.c and write bpf/gen anew (needs clang, llvm and libbpf-dev)
	BPF2GO_CC=$(CLANG) BPF2GO_STRIP=$(or $(shell command -v llvm-strip-$(CLANG_MAJOR)),llvm-strip) go generate ./bpf/...

docs: ## write docs/metrics.md anew from what the collectors declare (as root: all of it)
	go test -count=1 ./cmd/slid -run TestMetricsPage -update

check-clang:
	@test -n "$(CLANG)" || { echo "no clang: apt-get install clang llvm libbpf-dev" >&2; exit 1; }
	@test -e /usr/include/bpf/bpf_helpers.h || { echo "no bpf_helpers.h: apt-get install libbpf-dev" >&2; exit 1; }
	@major=$$($(CLANG) -dumpversion | cut -d. -f1); test "$$major" = $(CLANG_MAJOR) || { \
		echo "$(CLANG) is version $$major; the committed objects are made with clang $(CLANG_MAJOR) (Debian 12):" \
			"apt-get install clang-$(CLANG_MAJOR) llvm-$(CLANG_MAJOR)" >&2; exit 1; }

fmt: ## format the Go and the C sources
	@lint=$$(internal/tools/tool.sh lint) && $$lint fmt
	@test -z "$(BPF_SOURCES)" || $(CLANG_FORMAT) -i $(BPF_SOURCES)

check-fmt:
	@lint=$$(internal/tools/tool.sh lint) && diff=$$($$lint fmt --diff) && test -z "$$diff" || { \
		printf '%s\n' "$$diff"; echo "not formatted: make fmt" >&2; exit 1; }
	@test -z "$(BPF_SOURCES)" || $(CLANG_FORMAT) --dry-run --Werror $(BPF_SOURCES)

lint: ## check the sources with vet and golangci-lint (built at its first use)
	go vet ./...
	@lint=$$(internal/tools/tool.sh lint) && $$lint run

test: ## run every test; as root on Debian, installs the servers and load generators that the tests use
	@internal/tools/test.sh

race: ## run the tests that need no kernel with the race detector (needs gcc)
	@internal/tools/race.sh

test-vm: ## run the tests of the kernel probes on Debian's kernels 6.1 and 6.12 in a virtual machine (as root)
	@internal/tools/vm.sh

bench: ## run the benchmarks
	go test -run '^$$' -bench . -benchmem ./...

fuzz: ## fuzz every parser, FUZZTIME seconds in all
	@internal/tools/fuzz.sh $(FUZZTIME)

clean: ## remove what was built
	rm -rf bin
