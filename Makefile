# The two commands of the README are `make demo` and `make test`; everything else serves those who work on Millrace.

SHELL := /bin/bash
CARGO ?= cargo

.PHONY: all release demo test stack stack-down lint bench help packages

all: release

release: packages
	$(CARGO) build --release --locked --bins

# What a fresh Debian 12 lacks for building: a C compiler, OpenSSL and zlib headers for librdkafka.
packages:
	@deploy/dev/packages build

# The whole line with no server at all. BREAK=1 deletes one lake row (exit 2), KEEP=1 leaves it running.
demo: packages
	@BREAK=$(BREAK) KEEP=$(KEEP) CARGO="$(CARGO)" deploy/dev/demo

# Every test, with the real servers (deploy/dev/stack) that they need; Feast is installed into the user's cache, so that
# its own SDK and server judge what was written.
test: packages
	@deploy/dev/stack install
	$(CARGO) build --locked --workspace --bins
	MILLRACE_FEAST_PYTHON="$$(deploy/dev/feast)" deploy/dev/stack with $(CARGO) test --locked --workspace

# The development servers, kept until stack-down.
STACK ?= $(HOME)/.cache/millrace/stack
stack:
	@deploy/dev/stack install
	@echo "MILLRACE_FEAST_PYTHON=$$(deploy/dev/feast)"
	@deploy/dev/stack start $(STACK)

stack-down:
	@deploy/dev/stack stop $(STACK)

lint: packages
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items
	deploy/dev/dependencies

# Figures, never a verdict. See docs/benchmarks.md.
bench: packages
	hw-tests/bench/run

help:
	@grep -B1 -E '^[a-z]+:' Makefile | grep -vE '^--' | sed 's/:.*//'
