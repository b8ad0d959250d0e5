#!/usr/bin/env bash
# Install what the tests check the image with, once for each content of requirements-tools.txt, and print its bin folder.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
locked=$here/requirements-tools.txt
cache=${XDG_CACHE_HOME:-$HOME/.cache}/otel-url-monitor
tools=$cache/image-tools-$(sha256sum "$locked" | cut -c-16)

mkdir -p "$cache"
exec 9>"$cache/image-tools.lock"
flock 9 # one at a time: a second caller waits and finds the first one's

if [[ ! -e $tools/complete ]]; then
  python3 -m venv --clear "$tools" # of a run that was interrupted
  "$tools/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r "$locked" >&2
  touch "$tools/complete"
fi
echo "$tools/bin"
