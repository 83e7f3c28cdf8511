#!/usr/bin/env bash
# Proves that operator and servers run as pods: a datastore becomes ready, is written and read through its Services, fails
# over when its master's pod is deleted, and scales. In the cluster of `make cluster`, or in the one that KUBECONFIG names,
# with the images where IMAGE_REGISTRY says.
set -euo pipefail
cd "$(dirname "$0")"
. ./env.sh
export KUBECONFIG=${KUBECONFIG:-$run/kubeconfig}
tag=$(sed -nE 's/^version = "(.*)"/\1/p' ../../Cargo.toml)
system=replicated-redis-system name=smoke-$$

finish() {
	local status=$?
	if [ $status != 0 ]; then
		kubectl get pods --all-namespaces -o wide || true
		kubectl describe rr $name | tail -40 || true
		kubectl -n $system logs deployment/operator --tail 40 || true
	fi
	kubectl delete rr $name --ignore-not-found >/dev/null || true
	exit $status
}
trap finish EXIT
step() { echo "$(printf %3d $SECONDS) s  $*"; }
fail() { echo "smoke: $*" >&2; exit 1; }
field() { kubectl get rr $name -o "jsonpath={$1}"; }
redis() { # SERVICE COMMAND...
	kubectl -n $system exec client -- /busybox env "REDISCLI_AUTH=$password" /redis-cli -h "$name-$1.default.svc" "${@:2}" 2>&1
}
answers() { # EXPECTED SERVICE COMMAND...
	[ "$(redis "${@:2}")" = "$1" ]
}
is_ready() {
	[ "$(field '.status.phase') $(field '.metadata.generation')" = "Ready $(field '.status.observedGeneration')" ]
}

kubectl apply --server-side -f ../../manifests/crd.yaml >/dev/null
kubectl wait --for condition=Established crd/replicatedredises.replicated-redis.io --timeout 30s >/dev/null
sed "s#REGISTRY/#${IMAGE_REGISTRY:-localhost}/#; s#:TAG#:$tag#" operator.yaml | kubectl apply -f - >/dev/null
kubectl -n $system rollout status deployment/operator --timeout 60s >/dev/null
kubectl -n $system wait --for condition=Ready pod/client --timeout 60s >/dev/null
step "the operator runs"

kubectl apply -f - >/dev/null <<-YAML
	apiVersion: replicated-redis.io/v1alpha1
	kind: ReplicatedRedis
	metadata: {name: $name, namespace: default}
	spec: {replicas: 2, storage: {size: 64Mi, retention: {whenDeleted: Delete}}}
YAML
wait_for 120 "$name to be ready" is_ready
password=$(kubectl get secret $name-auth -o 'go-template={{.data.password | base64decode}}')
step "$name is ready: $(field .status.currentMaster) is its master"

answers OK master set greeting hello || fail "a write is refused: $(redis master set greeting hello)"
answers 2 master wait 2 5000 || fail "the write does not reach both replicas"
answers hello replicas get greeting || fail "a replica does not hold it: $(redis replicas get greeting)"
redis replicas set greeting x | grep -q '^READONLY' || fail "a replica takes a write"
step "written through $name-master, read through $name-replicas"

old=$(field .status.currentMaster)
other_master() { [ "$(field .status.currentMaster)" != "$old" ]; }
kubectl delete pod "$old" --wait=false >/dev/null
wait_for 60 "another master than $old" other_master
wait_for 60 "writes through $name-master" answers OK master set after failover
answers hello master get greeting || fail "the failover lost a write"
step "$old was deleted, $(field .status.currentMaster) is master and holds the data"

wait_for 120 "$name to be ready again" is_ready
kubectl scale rr/$name --replicas 3 >/dev/null
wait_for 120 "3 replicas" is_ready
[ "$(field .status.readyReplicas)" = 3 ] || fail "3 replicas are wanted, $(field .status.readyReplicas) are ready"
kubectl get rr $name -o wide
step done
