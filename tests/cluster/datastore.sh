# Sourced by smoke.sh and node_loss.sh: the operator in the cluster, and one datastore, which is deleted in the end. In the
# cluster of `make cluster`, or in the one that KUBECONFIG names, with the images where IMAGE_REGISTRY says.
. ./env.sh
export KUBECONFIG=${KUBECONFIG:-$run/kubeconfig}
system=replicated-redis-system
# How long a command may take, s.
patience=10

finish() {
	status=${status:-$?}
	if [ $status != 0 ]; then
		kubectl get pods --all-namespaces -o wide || true
		kubectl describe rr "$name" | tail -40 || true
		kubectl -n $system logs -l app.kubernetes.io/component=operator --prefix --tail 40 || true
	fi
	kubectl delete rr "$name" --ignore-not-found >/dev/null || true
	kubectl delete pvc -l "replicated-redis.io/cluster=$name" --wait=false >/dev/null || true
	exit $status
}
step() { echo "$(printf %3d $SECONDS) s  $*"; }
fail() { echo "$(basename "$0"): $*" >&2; exit 1; }
field() { kubectl get rr "$name" -o "jsonpath={$1}"; }
node_of() { kubectl get pod "$1" -o 'jsonpath={.spec.nodeName}'; }
redis() { # SERVICE COMMAND...
	kubectl -n $system exec client -- /busybox timeout $patience /busybox env "REDISCLI_AUTH=$password" \
		/redis-cli -h "$(kubectl get service "$name-$1" -o 'jsonpath={.spec.clusterIP}')" "${@:2}" 2>&1
}
answers() { # EXPECTED SERVICE COMMAND...
	[ "$(redis "${@:2}")" = "$1" ]
}
is_ready() {
	[ "$(field '.status.phase') $(field '.metadata.generation')" = "Ready $(field '.status.observedGeneration')" ]
}

# make_datastore NAME [SPEC]: installs the operator, and makes the datastore NAME with two replicas.
make_datastore() {
	name=$1
	./install.sh
	step "the operator runs"
	trap finish EXIT
	kubectl apply -f - >/dev/null <<-YAML
		apiVersion: replicated-redis.io/v1alpha1
		kind: ReplicatedRedis
		metadata: {name: $name, namespace: default}
		spec: {replicas: 2, storage: {size: 64Mi}${2:+, $2}}
	YAML
	wait_for 120 "$name to be ready" is_ready
	password=$(kubectl get secret "$name-auth" -o 'go-template={{.data.password | base64decode}}')
	step "$name is ready: $(field .status.currentMaster) is its master"
	# The nodes hear of a Service's endpoint a moment after the datastore is ready.
	wait_for 10 "a write through $name-master" answers OK master set greeting hello
	answers 2 master wait 2 5000 || fail "the write does not reach both replicas"
}

# Deletes the master's pod; returns when another is master.
fail_over() {
	old=$(field .status.currentMaster)
	kubectl delete pod "$old" --wait=false >/dev/null
	wait_for 60 "another master than $old" other_master
	wait_for 60 "writes through $name-master" answers OK master set after failover
}
other_master() { [ "$(field .status.currentMaster)" != "$old" ]; }
