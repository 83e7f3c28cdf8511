#!/usr/bin/env bash
# build.sh [nodes|dns|helm|dockerfile]: builds what the tests run, if that has not been done for these sources, and prints
# the folder with the programs. The folder is outside the checkout: a clean one need not build again.
#
#   (none)  etcd, kube-apiserver, kube-controller-manager, kubectl: what `make test` needs
#   nodes   kubelet, kube-proxy, kube-scheduler, volume-provisioner, pause: what `make cluster` adds
#   dns     CoreDNS, in a module of its own because it asks for newer versions of what Kubernetes uses
#   helm    helm, with the client-go of the control plane
#   dockerfile  check-dockerfile, BuildKit's own reader of Dockerfiles
set -euo pipefail
cd "$(dirname "$0")"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/replicated-redis

# A Go of 1.21 or newer fetches the one that go.mod asks for by itself. Where there is none, it comes as a module, too.
use_go() {
	local version=1.25.5 minor
	minor=$(go version 2>/dev/null | sed -nE 's/.* go1\.([0-9]+).*/\1/p') || true
	[ "${minor:-0}" -lt 21 ] || return 0
	local go=$cache/go-$version
	if [ ! -e "$go/bin/go" ]; then
		echo "fetching Go $version, which the Kubernetes of the tests is built with" >&2
		local proxy=${GOPROXY:-https://proxy.golang.org} platform module
		platform=linux-$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
		module=golang.org/toolchain@v0.0.1-go$version.$platform
		mkdir -p "$cache"
		curl -fsSL "${proxy%%[,|]*}/golang.org/toolchain/@v/${module#*@}.zip" -o "$cache/go.zip"
		unzip -q -d "$cache/go.new" "$cache/go.zip"
		chmod -R u+w,+x "$cache/go.new/$module/bin" "$cache/go.new/$module/pkg/tool"
		mv "$cache/go.new/$module" "$go"
		rm -rf "$cache/go.new" "$cache/go.zip"
	fi
	PATH=$go/bin:$PATH
}

case ${1:-control-plane} in
control-plane) packages=(./cmd/kube) links="etcd kube-apiserver kube-controller-manager kubectl" main=kube ;;
nodes) cd nodes && packages=(./cmd/node ./cmd/pause) links="kubelet kube-proxy kube-scheduler volume-provisioner" main=node ;;
dns) cd dns && packages=(./cmd/coredns) links= main=coredns ;;
helm) cd helm && packages=(helm.sh/helm/v3/cmd/helm) links= main=helm ;;
dockerfile) cd dockerfile && packages=(./cmd/check-dockerfile) links= main=check-dockerfile ;;
*) echo "build.sh builds the control plane, nodes, dns, helm or dockerfile; not $1" >&2 && exit 2 ;;
esac
sources=$(find go.mod go.sum $([ ! -d cmd ] || echo cmd) -type f | LC_ALL=C sort | xargs cat | sha256sum | cut -c1-16)
bin=$cache/cluster-$sources
mkdir -p "$bin"
# Two that need the same build it once.
exec 9>"$bin/lock"
flock 9
if [ ! -e "$bin/complete" ]; then
	use_go
	# Server and kubectl compare versions, and refuse to work without one.
	version=$(sed -nE 's/^[[:space:]]*k8s.io\/(kubernetes|client-go) v[01]\.([0-9.]+).*/v1.\2/p' go.mod | head -1)
	IFS=. read -r major minor _ <<<"${version#v}"
	stamp=
	for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		stamp+=" -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
	done
	# For `helm template` and `helm lint`, which ask no API server.
	for package in chartutil lint/rules; do
		stamp+=" -X helm.sh/helm/v3/pkg/$package.k8sVersionMajor=$major -X helm.sh/helm/v3/pkg/$package.k8sVersionMinor=$minor"
	done
	echo "building the $main programs of the tests' Kubernetes (some minutes, once)" >&2
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w$stamp" -o "$bin/" "${packages[@]}" >&2
	for name in $links; do
		ln -sf $main "$bin/$name"
	done
	touch "$bin/complete"
fi
echo "$bin"
