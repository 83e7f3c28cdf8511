#!/usr/bin/env bash
# Proves that operator and servers run as pods: a datastore becomes ready, is written and read through its Services, fails
# over when its master's pod is deleted, and scales.
set -euo pipefail
cd "$(dirname "$0")"
. ./datastore.sh

make_datastore smoke-$$
dns=$(kubectl -n $system exec client -- /busybox env "REDISCLI_AUTH=$password" /redis-cli -h "$name-replicas.default.svc" get greeting)
[ "$dns" = hello ] || fail "a replica does not hold it: $dns"
redis replicas set greeting x | grep -q '^READONLY' || fail "a replica takes a write"
step "written through $name-master, read through $name-replicas"

fail_over
answers hello master get greeting || fail "the failover lost a write"
step "$old was deleted, $(field .status.currentMaster) is master and holds the data"

wait_for 120 "$name to be ready again" is_ready
kubectl scale rr/$name --replicas 3 >/dev/null
wait_for 120 "3 replicas" is_ready
[ "$(field .status.readyReplicas)" = 3 ] || fail "3 replicas are wanted, $(field .status.readyReplicas) are ready"
kubectl get rr $name -o wide
step done
