#!/usr/bin/env bash
# The one place where tests install the operator: manifests/install.yaml as everybody applies it, with the images at
# IMAGE_REGISTRY, and a client to speak to the servers with. In the cluster that KUBECONFIG names; kubectl is on the PATH.
set -euo pipefail
cd "$(dirname "$0")"
registry=${IMAGE_REGISTRY:-localhost}
tag=$(sed -nE 's/^version = "(.*)"/\1/p' ../../Cargo.toml)
system=replicated-redis-system
sed -E "s#replicated-redis-(operator|server):$tag#$registry/&#" ../../manifests/install.yaml |
	kubectl apply --server-side --force-conflicts -f - >/dev/null
sed "s#REGISTRY#$registry#; s#TAG#$tag#" client.yaml | kubectl -n $system apply -f - >/dev/null
kubectl -n $system rollout status deployment/replicated-redis-operator --timeout 90s >/dev/null
kubectl -n $system wait --for condition=Ready pod/client --timeout 60s >/dev/null
# Established is not there from the first moment on, and until it is a ReplicatedRedis is an unknown kind.
for ((tries = 0; tries < 100; tries++)); do
	kubectl wait --for condition=Established crd/replicatedredises.replicated-redis.io --timeout 5s >/dev/null 2>&1 && exit
	sleep 0.1
done
echo "the resource is not known after $SECONDS s" >&2
exit 1
