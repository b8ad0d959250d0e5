#!/usr/bin/env bash
# Build the collector of builder.yaml with Go, once for each content of that file, and print its path.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
version=$(sed -n 's/^  version: //p' "$here/builder.yaml")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/otel-url-monitor
program=$cache/otelcol-$(sha256sum "$here/builder.yaml" | cut -c-16)
work=$program.build

mkdir -p "$cache"
exec 9>"$cache/otelcol.lock"
flock 9 # one build at a time: a second caller waits and finds the first one's

if [[ ! -x $program ]]; then
  command -v go >/dev/null || { echo "building the collector needs Go 1.25 or newer" >&2 && exit 1; }
  {
    echo "building the collector; the first time takes minutes ..."
    rm -rf "$work" # of a build that was interrupted
    mkdir "$work"
    cd "$work"
    GOBIN=$work go install "go.opentelemetry.io/collector/cmd/builder@v$version"
    # -e is for its `go mod tidy`: modules that only tests of dependencies name cannot all be had, nor are they needed.
    GOFLAGS="$(go env GOFLAGS) -e" ./builder --config "$here/builder.yaml"
    mv build/otelcol-url-monitor "$program"
    cd "$cache"
    rm -rf "$work"
  } >&2
fi
echo "$program"
