#!/usr/bin/env bash
# rootfs.sh DIR PROGRAM...: all that an image of ours holds: the programs, stripped; the shared libraries that they are linked
# with; /tmp; user 10001. The Dockerfiles and image.sh make the same by it.
set -euo pipefail
root=$1
shift
mkdir -p "$root"/{tmp,etc}
chmod 1777 "$root/tmp"
printf 'root:x:0:0::/:/\nredis:x:10001:10001::/:/\n' >"$root/etc/passwd"
for program in "$@"; do
	strip -o "$root/$(basename "$program")" "$program" 2>/dev/null || cp "$program" "$root/"
	# Lines of ldd with a path; a static program has none.
	for library in $(ldd "$program" 2>/dev/null | grep -oE '/[^ ]+' || true); do
		mkdir -p "$root/$(dirname "$library")"
		cp -L "$library" "$root/$library"
	done
done
