# The two commands that matter: make demo, make test. Both run as root on
# Debian or alike, with Go, and install the Debian packages that are missing.

BIN := bin/skiff
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)

# Static, and without this machine's paths: a node needs nothing but this file,
# a kernel and runc. Tests with real containers are built the same way, so that
# both share what is compiled.
STATIC := CGO_ENABLED=0
STATIC_FLAGS := -trimpath

# gcc is for the race detector, the others are for tests with real containers
# and for the demonstration.
PACKAGES := gcc libc6-dev curl runc nftables iproute2 busybox-static buildah debootstrap

# Packages with end-to-end tests.
E2E = $(shell grep -rlx '//go:build e2e' --include='*_test.go' . | xargs -r -n 1 dirname | sort -u)

.PHONY: build demo test unit e2e lint bench packages clean

# What is started for each pod goes into the binary as a file.
POD_PROGRAM := internal/containerd/skiff-pod.gz

build:
	$(STATIC) go build $(STATIC_FLAGS) -ldflags "-s -w" -o bin/skiff-pod ./cmd/skiff-pod
	gzip -9 -n -c bin/skiff-pod > $(POD_PROGRAM)
	$(STATIC) go build $(STATIC_FLAGS) -tags podprogram -ldflags "-s -w -X skiff/internal/cli.version=$(VERSION)" -o $(BIN) ./cmd/skiff

# The example application in a cluster of its own; see examples/flask.
demo: build
	examples/flask/demo.sh

# Everything: logic and a whole API server under the race detector, then real
# containers and networks.
test: packages unit e2e

unit:
	go test -race -p 2 -timeout 15m ./...

# One package at a time: they measure times, and share the machine's network.
e2e: build
	$(STATIC) go test $(STATIC_FLAGS) -tags e2e -count 1 -p 1 -timeout 15m $(E2E)

# The tools are pinned in a module of their own; see tools/go.mod.
lint:
	@unformatted=$$(git ls-files -z '*.go' | xargs -0 gofmt -l); \
		[ -z "$$unformatted" ] || { echo "Run gofmt -w on:"; echo "$$unformatted"; exit 1; }
	go vet -tags e2e ./...
	go -C tools build -o ../bin/staticcheck honnef.co/go/tools/cmd/staticcheck
	bin/staticcheck -tags e2e ./...

# Figures, beside upstream's; see docs/performance.md. BENCH names some of them.
bench: build
	go run ./bench -skiff $(BIN) $(BENCH)

packages:
	@missing=$$(for p in $(PACKAGES); do dpkg-query --show --showformat='$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || echo $$p; done); \
		[ -z "$$missing" ] || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; }

clean:
	rm -rf bin $(POD_PROGRAM)
