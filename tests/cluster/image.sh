#!/usr/bin/env bash
# image.sh OUT.tar NAME:TAG PROGRAM...: an image without a Docker engine: what rootfs.sh makes of the programs, and the first of
# them as entrypoint. The format (docker-archive) is what `ctr images import`, `docker load` and `kind load image-archive` read.
set -euo pipefail
out=$(realpath -m "$1") name=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
"$(dirname "$0")/rootfs.sh" "$root" "$@"
tar -C "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/layer.tar" .
layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
arch=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
cat >"$work/config.json" <<JSON
{"architecture": "$arch", "os": "linux", "created": "1970-01-01T00:00:00Z",
 "config": {"Entrypoint": ["/$(basename "$1")"], "Env": ["PATH=/"], "User": "10001:10001", "WorkingDir": "/"},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]}}
JSON
echo '[{"Config": "config.json", "RepoTags": ["'"$name"'"], "Layers": ["layer.tar"]}]' >"$work/manifest.json"
mkdir -p "$(dirname "$out")"
tar -C "$work" -cf "$out.new" manifest.json config.json layer.tar
mv "$out.new" "$out"
echo "$name: $(($(stat -c %s "$out") >> 20)) MiB"
