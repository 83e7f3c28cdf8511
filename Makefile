# The two commands: `make run` and `make test`. Both set up what they need on Debian or Ubuntu with Rust.

CARGO ?= cargo
MANIFEST ?= manifests/quickstart.yaml
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# The caches and the Go and Rust of the person who asks.
AS_ROOT := $(if $(SUDO),$(SUDO) HOME="$(HOME)" PATH="$(PATH):/usr/sbin:/sbin")
NODES ?= 1

.PHONY: help
help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: cc
cc: # the C compiler that the allocator is built with
	@command -v cc >/dev/null && command -v make >/dev/null || \
		{ $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends build-essential; }

.PHONY: run
run: cc ## build release and run $(MANIFEST) as processes of this machine
	$(CARGO) build --release --bin replicated-redis-server --bin replicated-redis-operator
	target/release/replicated-redis-operator local -f $(MANIFEST)

.PHONY: packages
packages: cc # Debian packages that the tests compare with
	@for tool in redis-server redis-cli openssl curl unzip; do command -v $$tool >/dev/null || missing=1; done; \
		[ -z "$$missing" ] || { $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends \
			redis-server redis-tools openssl curl ca-certificates unzip; }

.PHONY: kubernetes
kubernetes: packages # etcd, kube-apiserver, kube-controller-manager, kubectl, helm …, built once for all checkouts
	@tests/cluster/build.sh
	@tests/cluster/build.sh helm
	@tests/cluster/build.sh dockerfile

.PHONY: check
check: ## the quick loop: types, then the unit tests of the pure crates
	$(CARGO) check --workspace --all-targets
	$(CARGO) test -q -p resp -p replication -p engine

.PHONY: lint
lint: ## rustfmt and clippy, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

.PHONY: test
test: packages kubernetes lint ## every test: unit, transcripts, replication with redis-server, local mode, Kubernetes
	$(CARGO) build --workspace
	$(CARGO) test --workspace
	@$(MAKE) --no-print-directory cluster-test

.PHONY: bench
bench: packages ## our server beside redis-server, as one table; ONLY=cpu,memory,sync,restart,growth,failover QUICK=1
	$(CARGO) build --release --bin replicated-redis-server --bin replicated-redis-operator
	# Not release, where a panic aborts: the servers that the bench has started end as it unwinds.
	$(CARGO) build -p replicated-redis-tests --bin bench
	RR_BIN_DIR=target/release target/debug/bench

.PHONY: cluster-packages
cluster-packages: packages # what nodes are made of
	@for tool in containerd runc nft iptables ip busybox; do \
		[ -n "$$(PATH=$$PATH:/usr/sbin:/sbin command -v $$tool)" ] || missing=1; done; \
		[ -x /usr/lib/cni/bridge ] && [ -z "$$missing" ] || { $(SUDO) apt-get update && $(SUDO) apt-get install -y \
			--no-install-recommends containerd runc containernetworking-plugins nftables iptables iproute2 busybox-static; }

.PHONY: nodes
nodes: cluster-packages kubernetes # the programs of a cluster of nodes
	@tests/cluster/build.sh nodes
	@tests/cluster/build.sh dns

.PHONY: cluster-test
cluster-test: nodes ## the suite on a real cluster of three nodes (or on KUBECONFIG's); ONLY="failover scale" chooses; needs root
	$(CARGO) build --workspace
	# Only this one program runs as root.
	$(CARGO) test -p replicated-redis-tests --test cluster $(if $(AS_ROOT),--config "target.'cfg(all())'.runner = '$(subst \
		",,$(AS_ROOT)) KUBECONFIG=$(KUBECONFIG) IMAGE_REGISTRY=$(IMAGE_REGISTRY)'") -- run $(ONLY)

.PHONY: cluster
cluster: nodes ## a real Kubernetes of NODES=1 nodes on this machine with our images in it; needs root
	$(CARGO) build --release --bin replicated-redis-server --bin replicated-redis-operator
	$(AS_ROOT) tests/cluster/up.sh $(NODES)

.PHONY: cluster-down
cluster-down: ## end that cluster
	$(AS_ROOT) tests/cluster/down.sh

.PHONY: manifests
manifests: packages ## regenerate what follows from the resource's types and the chart: the CRDs, manifests/install.yaml
	$(CARGO) run -q -p replicated-redis-operator -- crd > manifests/crd.yaml.new && mv manifests/crd.yaml.new manifests/crd.yaml
	cp manifests/crd.yaml charts/replicated-redis-operator/files/crd.yaml
	charts/install.sh > manifests/install.yaml.new && mv manifests/install.yaml.new manifests/install.yaml

.PHONY: crd
crd: manifests
