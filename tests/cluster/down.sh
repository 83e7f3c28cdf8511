#!/usr/bin/env bash
# Ends what up.sh began and removes its state; the programs stay in the cache.
set -uo pipefail
cd "$(dirname "$0")"
. ./env.sh
[ -d "$run" ] || exit 0
for pid in "$run"/pid/node*; do
	[ ! -e "$pid" ] || ./node.sh kill "${pid##*node}"
done
# Nothing is kept, so nobody is asked nicely. A program and the shell that keeps it are one session's only group.
for pid in "$run"/pid/*; do
	[ ! -e "$pid" ] || kill -9 -- "-$(cat "$pid")" 2>/dev/null
done
ip link del rr0 2>/dev/null
[ ! -e "$run/sysctl" ] || sysctl -qp "$run/sysctl"
# A dying process holds its control group for a moment.
for ((round = 0; round < 50; round++)); do
	find /sys/fs/cgroup -depth -type d -path '*/rr-node[1-9]*' -exec rmdir {} + 2>/dev/null
	[ -n "$(find /sys/fs/cgroup -maxdepth 2 -name 'rr-node[1-9]' -print -quit)" ] || break
	sleep 0.1
done
rm -rf --one-file-system "$run"
