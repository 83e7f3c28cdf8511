# Sourced by the scripts beside it: where the cluster's state is (outside the checkout), and its addresses.
#
#	bridge rr0 10.10.0.1 -+- node1 10.10.0.11, pods 10.244.1.0/24
#	(control plane)       +- node2 10.10.0.12, pods 10.244.2.0/24 ...
#
# Services are 10.96.0.0/16, cluster DNS is 10.96.0.10.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/replicated-redis
run=${RR_CLUSTER_DIR:-$cache/cluster}
api=10.10.0.1
export PATH=$run/bin:$PATH

# wait_for WHAT COMMAND...: until the command succeeds. A guard against hanging: a busy machine takes a multiple of the
# usual seconds. What the command says, and the logs' last lines, are shown when it is in vain.
wait_for() {
	local end=$((SECONDS + 300)) what=$1 said log
	shift
	until said=$("$@" 2>&1); do
		if [ $SECONDS -ge $end ]; then
			echo "waited in vain for $what: $said" >&2
			for log in "$run"/log/*.log; do printf '\n%s:\n' "$log" && tail -n 8 "$log" | cut -c-400; done >&2
			return 1
		fi
		sleep 0.1
	done
}

# keep COMMAND...: again and again, as a service manager does. kube-controller-manager, for one, ends when it has not met
# the API server within ten seconds.
keep() {
	while :; do
		"$@" || echo "$1 has ended with status $?"
		sleep 1
	done
}
