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

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
	local end=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || { echo "waited in vain for $what; logs are in $run/log" >&2; return 1; }
		sleep 0.1
	done
}
