#!/usr/bin/env bash
# Make a stand-in for the official base image out of Debian packages, once, and print its name.
#
# It has Debian's python3 with venv and nothing else, comes from the mirrors that this machine's apt uses, and lets the
# image be built and tested where no registry can be reached. Needs root, debootstrap and podman.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
suite=$(sed -nE 's/^ARG PYTHON_IMAGE=.*-slim-([a-z]+)(@.*)?$/\1/p' "$here/../Dockerfile")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/otel-url-monitor
name=localhost/otel-url-monitor-base:$suite-$(sha256sum "$0" | cut -c-16)
archive=$cache/base-${name##*:}-$(dpkg --print-architecture).tar
work=$archive.build

mkdir -p "$cache"
exec 9>"$cache/base.lock"
flock 9 # one at a time: a second caller waits and finds the first one's

mirror() { # of a suite of this machine's Debian, for instance bookworm-security; nothing on another system
  [[ $(. /etc/os-release && echo "$ID") != debian ]] ||
    apt-get indextargets --format "\$(RELEASE) \$(COMPONENT) \$(REPO_URI)" 'Created-By: Packages' |
    awk -v suite="$(. /etc/os-release && echo "$VERSION_CODENAME")$1" '$1 == suite && $2 == "main" && !n++ { print $3 }'
}

if ! podman image exists "$name" && [[ ! -s $archive ]]; then
  {
    echo "making a base image of Debian $suite; the first time takes a minute ..."
    debian=$(mirror "")
    security=$(mirror -security)
    debian=${debian:-http://deb.debian.org/debian/}
    umount --quiet "$work/proc" "$work/sys" 2>/dev/null || true # of a run that was interrupted
    rm -rf --one-file-system "$work"
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv "$suite" "$work" "$debian" >"$work.log" ||
      { tail "$work.log" && exit 1; }
    {
      echo "deb $debian $suite main"
      echo "deb $debian $suite-updates main"
      echo "deb ${security:-http://deb.debian.org/debian-security/} $suite-security main"
    } >"$work/etc/apt/sources.list"
    # Proxies and leniency about dates, without which the mirrors of this machine may not answer.
    apt-config dump | grep -E '^Acquire::(https?::|Check-)' >"$work/etc/apt/apt.conf.d/90machine" || true
    # What the official slim images leave out too.
    rm -rf "$work"/var/lib/apt/lists/* "$work"/var/cache/apt/* "$work"/var/log/* "$work"/usr/share/{doc,info,locale,man}/*
    : >"$work/etc/resolv.conf"
    tar -C "$work" --numeric-owner --exclude='./dev/*' -cf "$archive.part" .
    mv "$archive.part" "$archive"
    rm -rf --one-file-system "$work" "$work.log"
  } >&2
fi
podman image exists "$name" || podman import --quiet "$archive" "$name" >&2
echo "$name"
