#!/usr/bin/env bash
# up.sh [NODES]: a Kubernetes cluster of NODES nodes (default 1) on this machine, with the images of this checkout's server
# and operator. The control plane runs as plain processes, each node as a set of namespaces (node.sh). Needs root.
#
# PROFILE=debug takes the programs of a debug build (default: release).
set -euo pipefail
cd "$(dirname "$0")"
. ./env.sh
nodes=${1:-1}
[ "$(id -u)" = 0 ] || { echo "a cluster needs root: namespaces, a bridge, control groups" >&2; exit 1; }
[ ! -e "$run/pid" ] || { echo "the cluster is up, or was not ended well: run make cluster-down" >&2; exit 1; }
control=$(./build.sh) node=$(./build.sh nodes) dns=$(./build.sh dns)
SECONDS=0
mkdir -p "$run"/{bin,pid,log,keys,images,volumes}
ln -sf "$control"/* "$node"/* "$dns"/* "$run/bin/"

start() { # PROGRAM ARGUMENT...: in the background, beyond the end of this script
	setsid nice -n -10 bash -c '. ./env.sh; keep "$@"' keep "$@" >"$run/log/$1.log" 2>&1 </dev/null &
	echo $! >"$run/pid/$1"
}

# ---- who is who: a token for each client, certificates where TLS needs them --------------------
keys=$run/keys
umask 077
key() { openssl ecparam -name prime256v1 -genkey -noout -out "$keys/$1.key"; }
certificate() { # NAME SUBJECT EXTENSION...
	key "$1"
	openssl req -new -key "$keys/$1.key" -subj "$2" | openssl x509 -req -days 3650 -CA "$keys/ca.crt" -CAkey "$keys/ca.key" \
		-out "$keys/$1.crt" -extfile <(printf '%s\n' "${@:3}") 2>/dev/null
}
client() { # NAME USER GROUP: NAME.conf is its kubeconfig
	local token
	token=$(openssl rand -hex 16)
	echo "$token,$2,$2,$3" >>"$keys/tokens.csv"
	cat >"$keys/$1.conf" <<-YAML
		apiVersion: v1
		kind: Config
		clusters: [{name: rr, cluster: {server: "https://$api:6443", certificate-authority-data: $(base64 -w0 "$keys/ca.crt")}}]
		users: [{name: $1, user: {token: $token}}]
		contexts: [{name: rr, context: {cluster: rr, user: $1}}]
		current-context: rr
	YAML
}
key ca
openssl req -x509 -new -key "$keys/ca.key" -subj /CN=replicated-redis-tests -days 3650 -out "$keys/ca.crt"
key service-accounts
certificate apiserver /CN=kube-apiserver extendedKeyUsage=serverAuth \
	"subjectAltName=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:10.96.0.1,IP:$api"
# With this the API server asks kubelets for logs and exec.
certificate to-kubelets /O=system:masters/CN=kube-apiserver extendedKeyUsage=clientAuth
client admin admin system:masters
client controller-manager system:kube-controller-manager system:authenticated
client scheduler system:kube-scheduler system:authenticated
client proxy system:kube-proxy system:authenticated
for ((n = 1; n <= nodes; n++)); do client node$n system:node:node$n system:nodes; done
cp "$keys/admin.conf" "$run/kubeconfig"
export KUBECONFIG=$run/kubeconfig
umask 022
[ -z "${SUDO_UID-}" ] || chown "$SUDO_UID" "$KUBECONFIG"

# ---- network ------------------------------------------------------------------------------------
ip link add rr0 type bridge
ip addr add $api/24 dev rr0
ip link set rr0 up
# This machine reaches Services by way of node1, whose kube-proxy translates.
ip route add 10.96.0.0/16 via 10.10.0.11
for ((n = 1; n <= nodes; n++)); do ip route add 10.244.$n.0/24 via 10.10.0.1$n; done
# A kubelet sets these for the whole machine; down.sh puts them back.
sysctl vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops >"$run/sysctl"

# ---- control plane ------------------------------------------------------------------------------
etcd=http://127.0.0.1:12379
start etcd --data-dir "$run/etcd" --unsafe-no-fsync --log-level warn \
	--listen-client-urls $etcd --advertise-client-urls $etcd --listen-peer-urls http://127.0.0.1:12380 \
	--initial-advertise-peer-urls http://127.0.0.1:12380 --initial-cluster default=http://127.0.0.1:12380
start kube-apiserver --etcd-servers $etcd --bind-address $api --advertise-address $api \
	--service-cluster-ip-range 10.96.0.0/16 --allow-privileged \
	--authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
	--token-auth-file "$keys/tokens.csv" --client-ca-file "$keys/ca.crt" \
	--tls-cert-file "$keys/apiserver.crt" --tls-private-key-file "$keys/apiserver.key" \
	--kubelet-client-certificate "$keys/to-kubelets.crt" --kubelet-client-key "$keys/to-kubelets.key" \
	--kubelet-preferred-address-types InternalIP \
	--service-account-issuer https://kubernetes.default.svc.cluster.local \
	--service-account-key-file "$keys/service-accounts.key" \
	--service-account-signing-key-file "$keys/service-accounts.key" \
	--default-not-ready-toleration-seconds 10 --default-unreachable-toleration-seconds 10
start kube-controller-manager --kubeconfig "$keys/controller-manager.conf" \
	--bind-address 127.0.0.1 --leader-elect=false --use-service-account-credentials \
	--root-ca-file "$keys/ca.crt" --service-account-private-key-file "$keys/service-accounts.key" \
	--node-monitor-period 2s --node-monitor-grace-period 20s
start kube-scheduler --kubeconfig "$keys/scheduler.conf" --bind-address 127.0.0.1 --leader-elect=false
start volume-provisioner --kubeconfig "$keys/admin.conf" --root "$run/volumes"

# ---- images (while the API server starts), nodes, what runs in the cluster ------------------------
target=../../target/${PROFILE:-release}
tag=$(sed -nE 's/^version = "(.*)"/\1/p' ../../Cargo.toml)
./image.sh "$run/images/pause.tar" localhost/pause:1 "$node/pause"
./image.sh "$run/images/coredns.tar" localhost/coredns:1 "$dns/coredns"
for program in replicated-redis-server replicated-redis-operator; do
	./image.sh "$run/images/$program.tar" "localhost/$program:$tag" "$target/$program"
done
./image.sh "$run/images/redis-server.tar" "localhost/redis-server:$tag" "$(command -v redis-server)"
./image.sh "$run/images/client.tar" "localhost/replicated-redis-client:$tag" "$(command -v redis-cli)" "$(command -v busybox)"
for ((n = 1; n <= nodes; n++)); do ./node.sh up $n; done
wait_for "the API server" kubectl get --raw /readyz
wait_for "addons.yaml to be taken" kubectl apply --server-side -f addons.yaml
for ((n = 1; n <= nodes; n++)); do
	wait_for "node$n" kubectl wait --for condition=Ready node/node$n --timeout 1s
done
# A namespace takes pods once it has its service account.
wait_for "the default service account" kubectl get serviceaccount default
wait_for "the cluster's DNS" kubectl -n kube-system rollout status deployment/coredns --timeout 5s
echo "up after $SECONDS s:  export KUBECONFIG=$KUBECONFIG PATH=$run/bin:\$PATH"
