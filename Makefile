# The two commands that matter: make demo, make test.

BIN := bin/skiff
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)

.PHONY: build demo clean

# Static and stripped: a node needs nothing but this file, a kernel and runc.
build:
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X skiff/internal/cli.version=$(VERSION)" -o $(BIN) ./cmd/skiff

# The example application in a cluster of its own; see examples/flask.
demo: build
	examples/flask/demo.sh

clean:
	rm -rf bin
