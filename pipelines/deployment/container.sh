#!/bin/sh
# Build the image, run it without a network, a name and a writable root, and print sizes and seconds.
# BUILD: `podman build` or `buildah build`, with options. BASE: another base; where it cannot be had, debootstrap makes
# one, as root. IMAGE: the name of the result.
set -eu
cd "$(dirname "$0")/../.."
image=${IMAGE:-localhost/pathopatch}
base=${BASE:-docker.io/library/debian:bookworm-slim}

if ! podman image exists "$base" && ! podman pull --quiet --retry 0 "$base"; then
    base=localhost/debian:bookworm
    if ! podman image exists "$base"; then
        work=$(mktemp -d) && root=$work/root
        trap 'rm -rf --one-file-system "$work"' EXIT
        debootstrap --variant=minbase bookworm "$root" http://deb.debian.org/debian >"$work/log" || { cat "$work/log"; exit 1; }
        echo 'deb http://deb.debian.org/debian-security bookworm-security main' >>"$root/etc/apt/sources.list"
        (cd "$root" && rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/* usr/share/doc/* usr/share/man/* usr/share/locale/*)
        tar -C "$root" --one-file-system --numeric-owner -c . | podman import --quiet - "$base"
    fi
fi

seconds() {
    started=$(date +%s)
    "$@"
    echo "-- $(($(date +%s) - started)) s: $*"
}
run() {
    podman run --rm --network=none --read-only --cap-drop=all --security-opt=no-new-privileges --user 12345:12345 \
        --tmpfs /out:mode=1777 "$@"
}

# shellcheck disable=SC2086  # words of a command
seconds ${BUILD:-podman build --quiet} --build-arg BASE="$base" -f pipelines/deployment/Containerfile -t "$image" .
left=$(podman run --rm --network=none --user 0 --entrypoint find "$image" / -xdev '(' -name .git -o -name tests -o \
    -name pip -o -path '*/bin/gcc' -o -path '*/bin/npm' -o -path '*/bin/cmake' ')' -print)
test -z "$left" || { echo "not wanted in the image: $left" >&2; exit 1; }
seconds run "$image" doctor
seconds run "$image" predict --example
echo "-- $(($(podman image inspect --format '{{.Size}}' "$image") / 1000000)) MB: $image on $base"
