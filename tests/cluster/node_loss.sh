#!/usr/bin/env bash
# Cuts the power of the master's node (in the cluster of `make cluster NODES=3`): another master takes writes within seconds
# and holds the data; when the node is back, so is the old master, as a replica.
set -euo pipefail
cd "$(dirname "$0")"
unset KUBECONFIG
. ./datastore.sh
cut=
heal() { status=$?; [ -z "$cut" ] || ./node.sh up "$cut"; finish; }

# One pod per node. The leading operator and the client stay alive: what the loss of that operator costs is another question.
make_datastore node-loss-$$ "scheduling: {affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [
	{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {replicated-redis.io/cluster: node-loss-$$}}}]}}}"
trap heal EXIT
leader=$(kubectl -n $system get lease replicated-redis-operator -o 'jsonpath={.spec.holderIdentity}')
spared=$(kubectl -n $system get pods client "${leader%-*}" -o 'jsonpath={.items[*].spec.nodeName}')
on_spared() { [[ " $spared " == *" $(node_of "$(field .status.currentMaster)") "* ]]; }
for ((tries = 0; tries < 2; tries++)); do
	on_spared || break
	fail_over
	wait_for 60 "$old to be back" kubectl wait --for condition=Ready "pod/$old" --timeout 1s
	wait_for 60 "$name to be ready again" is_ready
done
! on_spared || fail "operator and client are on all nodes that the master comes to ($spared)"

master=$(field .status.currentMaster)
node=$(node_of "$master")
./node.sh kill "${node#node}"
cut=${node#node} begun=$(date +%s%3N) old=$master
# An attempt at the dead node's address hangs: the next one tells more.
patience=1
wait_for 60 "writes through $name-master" answers OK master set after loss
patience=10
step "$(($(date +%s%3N) - begun)) ms after the loss of $node a write was taken"
other_master || fail "$master is still the master"
answers hello master get greeting || fail "the failover lost a write"

./node.sh up "$cut"
cut=
wait_for 180 "$name to be ready with its node" is_ready
[ "$(kubectl get pod "$master" -o "jsonpath={.metadata.labels.replicated-redis\.io/role}")" = replica ] ||
	fail "$master should be a replica"
step "$node is back, $master is a replica"
