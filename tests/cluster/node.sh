#!/usr/bin/env bash
# node.sh up N              starts node N: containerd, kubelet and kube-proxy in namespaces of their own
# node.sh kill N            cuts its power: processes, mounts and network devices are gone, the disk stays
# node.sh exec N COMMAND... runs a command on it
#
# A node shares nothing but the kernel with the others: /run and the state folders are its own, so that default paths and
# ports do for each, and no rule of kube-proxy touches this machine.
set -euo pipefail
cd "$(dirname "$0")"
. ./env.sh
what=$1 n=$2 name=node$2 group=rr-node$2
disk=$run/$name

# Process 1 of the node, which is the only child of the one in the pid file.
first() {
	local outer
	outer=$(cat "$run/pid/$name")
	tr -d ' ' <"/proc/$outer/task/$outer/children"
}

up() {
	mkdir -p "$disk"
	# The parent of its pods' control groups; under cgroup v1 in every hierarchy.
	for parent in /sys/fs/cgroup /sys/fs/cgroup/*/; do
		[ -e "$parent/cgroup.procs" ] || continue
		mkdir -p "$parent/$group"
		for file in cpuset.cpus cpuset.mems; do
			[ ! -e "$parent/$file" ] || cat "$parent/$file" >"$parent/$group/$file"
		done
		# A node is a machine: its pods do not starve because somebody compiles on this one. Ten times the usual weight.
		[ ! -e "$parent/$group/cpu.shares" ] || echo 10240 >"$parent/$group/cpu.shares"
		[ ! -e "$parent/$group/cpu.weight" ] || echo 1000 >"$parent/$group/cpu.weight"
	done
	# Neither do its kubelet and its proxy; where that may not be said, it is said in vain.
	setsid nice -n -10 unshare --net --mount --pid --uts --ipc --fork --kill-child --mount-proc \
		./node.sh init "$n" >"$run/log/$name.log" 2>&1 </dev/null &
	echo $! >"$run/pid/$name"
	wait_for "$name's namespaces" test -e "$disk/started"
	rm "$disk/started"
	ip link add "rrveth$n" type veth peer name eth0 netns "$(first)"
	ip link set "rrveth$n" master rr0 up
}

cut() {
	kill -9 "$(cat "$run/pid/$name")" 2>/dev/null || true
	rm "$run/pid/$name"
	# The kernel frees a dead network namespace in its own time: the name would be in the way of the next start.
	ip link del "rrveth$n" 2>/dev/null || true
}

configure() {
	mkdir -p "$disk/cni"
	cat >"$disk/cni/10-bridge.conflist" <<-JSON
		{"cniVersion": "1.0.0", "name": "pods", "plugins": [
		 {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
		  "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.$n.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
		 {"type": "portmap", "capabilities": {"portMappings": true}}]}
	JSON
	cat >"$disk/containerd.toml" <<-TOML
		version = 2
		disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
		  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "localhost/pause:1"
		  # Root of a container that is our machine may lack CAP_SYS_RESOURCE: no score below our own.
		  restrict_oom_score_adj = true
		  [plugins."io.containerd.grpc.v1.cri".cni]
		    bin_dir = "/usr/lib/cni"
		    conf_dir = "$disk/cni"
		  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		    runtime_type = "io.containerd.runc.v2"
	TOML
	cat >"$disk/kubelet.yaml" <<-YAML
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $run/keys/ca.crt}}
		authorization: {mode: Webhook}
		containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
		cgroupDriver: cgroupfs
		cgroupRoot: /$group
		failCgroupV1: false
		failSwapOn: false
		oomScoreAdj: 0
		clusterDomain: cluster.local
		clusterDNS: [10.96.0.10]
		resolvConf: ""
		# Images come from files, and no registry would give them back.
		imageGCHighThresholdPercent: 100
		evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
		nodeStatusUpdateFrequency: 4s
		# Tests kill the same container more than once.
		crashLoopBackOff: {maxContainerRestartPeriod: 1s}
	YAML
	cat >"$disk/proxy.yaml" <<-YAML
		apiVersion: kubeproxy.config.k8s.io/v1alpha1
		kind: KubeProxyConfiguration
		mode: nftables
		clientConnection: {kubeconfig: $run/keys/proxy.conf}
		clusterCIDR: 10.244.0.0/16
		hostnameOverride: $name
		oomScoreAdj: 0
		conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
	YAML
}

# Runs as process 1.
init() {
	hostname "$name"
	mount -t tmpfs tmpfs /run
	for dir in /var/lib/kubelet /var/lib/containerd /var/lib/cni /var/log; do
		mkdir -p "$disk$dir" $dir
		mount --bind "$disk$dir" $dir
	done
	mkdir -p /run/netns /run/lock
	touch "$disk/started"
	wait_for "eth0" ip link set eth0 up
	ip link set lo up
	ip addr add "10.10.0.1$n/24" dev eth0
	ip route add default via $api
	for other in 1 2 3 4 5 6 7 8 9; do
		[ $other = "$n" ] || ip route add 10.244.$other.0/24 via 10.10.0.1$other
	done
	sysctl -qw net.ipv4.ip_forward=1
	configure
	containerd -c "$disk/containerd.toml" >"$run/log/$name-containerd.log" 2>&1 &
	wait_for containerd ctr version
	for image in "$run"/images/*.tar; do ctr -n k8s.io images import "$image"; done
	keep kubelet --config "$disk/kubelet.yaml" --kubeconfig "$run/keys/$name.conf" --hostname-override "$name" \
		--node-ip "10.10.0.1$n" >"$run/log/$name-kubelet.log" 2>&1 &
	keep kube-proxy --config "$disk/proxy.yaml" >"$run/log/$name-proxy.log" 2>&1 &
	wait
}

case $what in
up) up ;;
kill) cut ;;
exec) exec nsenter -a -t "$(first)" "${@:3}" ;;
init) init ;;
*) echo "node.sh up|kill|exec N" >&2 && exit 2 ;;
esac
