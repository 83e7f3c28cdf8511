#!/usr/bin/env bash
# Prints the folder with prometheus and promtool. Where they are not installed, Debian's package is unpacked into the cache:
# not installed, so no service is started, and no right is needed.
set -euo pipefail
if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
	dirname "$(command -v prometheus)"
	exit
fi
dir=${XDG_CACHE_HOME:-$HOME/.cache}/replicated-redis/prometheus
mkdir -p "$dir"
# Two that need it unpack it once.
exec 9>"$dir/lock"
flock 9
if [ ! -e "$dir/complete" ]; then
	rm -rf "$dir/unpacked" && mkdir "$dir/unpacked"
	cd "$dir/unpacked"
	echo "fetching Debian's prometheus (19 MB, once)" >&2
	apt-get -qq download prometheus >&2 2>/dev/null ||
		{ echo "apt-get download prometheus failed: are the package lists there (apt-get update)?" >&2; exit 1; }
	dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb
	touch "$dir/complete"
fi
echo "$dir/unpacked/usr/bin"
