#!/bin/bash
# Makes the image python:3.9-slim, which the Dockerfile builds on, in buildah's
# storage: pulled where a registry answers, else from Debian packages. The
# latter holds Debian's own Python and Flask, so that the Dockerfile's
# `pip install` finds everything there already.
#
# Usage: base-image.sh CACHE BUILDAH...   (buildah's command line)
# BASE=registry or BASE=debian leaves no choice.
set -euo pipefail

cache=$1; shift
buildah=("$@")
name=docker.io/library/python:3.9-slim

if "${buildah[@]}" inspect --type image "$name" >/dev/null 2>&1; then
    exit 0
fi
if [ "${BASE:-registry}" != debian ] && timeout 20 "${buildah[@]}" pull --quiet "$name" >/dev/null 2>&1; then
    exit 0
fi
if [ "${BASE:-}" = registry ]; then
    echo "no registry answers for $name" >&2
    exit 1
fi

archive=$cache/python-debian.tar
if [ ! -f "$archive" ]; then
    root=$(mktemp -d "$cache/root.XXXXXX")
    trap 'rm -rf "$root"' EXIT
    # The mirror is the one that this machine's apt uses.
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | head -n 1)
    debootstrap --variant=minbase --include=python3,python3-flask,python3-pip bookworm "$root" "$mirror" >"$cache/debootstrap.log" ||
        { tail "$cache/debootstrap.log" >&2; exit 1; }
    ln -s python3 "$root/usr/bin/python"
    rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* \
        "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/*
    tar -C "$root" -cf "$archive.new" --exclude='./dev/*' .
    mv "$archive.new" "$archive"
fi
container=$("${buildah[@]}" from --pull=never scratch)
"${buildah[@]}" add --quiet "$container" "$archive" / >/dev/null
"${buildah[@]}" config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --env LANG=C.UTF-8 --cmd python3 "$container"
"${buildah[@]}" commit --quiet --rm "$container" "$name" >/dev/null
