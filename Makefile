# Thin: every target calls one thing. `make up` and `make test` are the two commands of README.
.PHONY: up down build test check conformance diff soak bench upstream kubectl prerequisites
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/go/bin

up: build ## a running, secured cluster with the guide's example
	target/release/keelson up

down: ## stop it; what is stored stays
	target/release/keelson down

prerequisites:
	packaging/prerequisites

build: prerequisites ## the daemons and `keelson`, into target/release
	packaging/build

kubectl: ## stock kubectl, where PATH has none within the version skew
	packaging/prerequisites tools
	e2e/upstream/build kubectl

upstream: ## upstream's programs to look at and to compare with (25 minutes)
	packaging/prerequisites tools
	e2e/upstream/build

test: ## everything that lands must pass
	e2e/test

conformance: build ## upstream's conformance tests on a cluster of two nodes (FOCUS= STAGE= LIST= CONTENT_TYPE=json|protobuf NODES= PARALLEL=)
	e2e/conformance/run

soak: build ## traffic through rollouts, and every daemon killed at random instants (15 minutes)
	target/release/soak

bench: build ## our API server measured beside upstream's (UPSTREAM= ETCD= OBJECTS= WATCHERS= WRITES= ONLY=)
	packaging/prerequisites tools
	e2e/upstream/build kube-apiserver
	target/release/bench

check: ## formatting, lints, dependencies, tidiness
	packaging/check

diff: ## the same requests to upstream's API server and to ours; builds upstream's if it is missing
	e2e/upstream/build kube-apiserver
	cargo run --release --locked -p keelson-e2e --bin keelson-diff
