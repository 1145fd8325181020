# The targets of the project; CI and the README use the same.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

include hack/control-plane.mk

# Tests mostly wait for servers: more of them than cores run at once.
TEST_THREADS ?= 6

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

.PHONY: require-rust
require-rust:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.91 or newer (rustup)"; exit 1; }
	@command -v cc >/dev/null || { echo "a C compiler (cc) is missing: install gcc or clang"; exit 1; }

.PHONY: demo
demo: require-rust control-plane ## Show the operator at work on a real API server; ARGS=--once ends after the story
	@echo "building the operator and the simulator (a few minutes the first time)"
	@cargo build --locked --workspace --bins
	@cargo run --quiet --locked -p demo -- $(ARGS)

.PHONY: test
test: require-rust check unit control-plane sdk integration story ## Everything but the benchmark

.PHONY: check
check: require-rust ## Format, lints, documentation
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet

.PHONY: unit
unit: require-rust ## Tests that need no control plane
	cargo test --locked --workspace --lib --bins

.PHONY: sdk
sdk: ## Install IBM's SDKs for the tests (Node and Python)
	@hack/sdk.sh >/dev/null || { status=$$?; if [ $$status = 2 ] && [ "$${CI:-}" != true ]; then echo "the tests with IBM's SDKs are left out"; else exit $$status; fi; }

.PHONY: integration
integration: require-rust control-plane ## Tests against a real control plane and the simulator
	cargo build --locked --workspace --bins
	RUST_TEST_THREADS=$(TEST_THREADS) cargo test --locked --workspace --test it

.PHONY: story
story: require-rust control-plane ## The demo's story, once: fails when it does not go well
	@cargo build --locked --workspace --bins
	@cargo run --quiet --locked -p demo -- --once

.PHONY: bench
bench: require-rust control-plane ## Benchmarks (release build)
	cargo build --release --locked --workspace --bins
	cargo run --release --locked -p demo --bin bench -- $(ARGS)

.PHONY: generate
generate: require-rust ## Write what is generated: CRDs, the chart's copy, documentation of reasons
	mkdir -p crds charts/cloud-identity-operator/files/crds
	cargo run --quiet --locked --bin cloud-identity-operator -- crds --directory crds
	cp crds/*.yaml charts/cloud-identity-operator/files/crds/
	cargo run --quiet --locked --bin cloud-identity-operator -- reasons > docs/reasons.md
