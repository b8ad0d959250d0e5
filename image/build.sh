#!/usr/bin/env bash
# Build the image with docker, podman or buildah, whichever works here, and print its name.
#
#   image/build.sh [NAME [OPTION...]]   NAME is otel-url-monitor:VERSION by default; options go to the builder
#   PYTHON_IMAGE=...                    another base image, best held by digest
#   BUILDER=docker|podman|buildah
#
# pip in the build has the index, proxy and certificate that pip has here; none of it gets into the image.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' src/otel_url_monitor/__init__.py)
name=${1:-otel-url-monitor:$version}
options=("${@:2}")
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[[ -z $(git status --porcelain -- src image Dockerfile pyproject.toml 'requirements*.txt' 2>/dev/null) ]] || revision+=-dirty
# The same commit gives the same image: its time is the image's.
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
source=$(git remote get-url origin 2>/dev/null | sed -E 's,//[^@/]*@,//,' || true)

builder=${BUILDER:-}
if [[ -z $builder ]]; then
  if docker info >/dev/null 2>&1; then
    builder=docker
  else
    builder=$(basename "$(command -v buildah || command -v podman || echo none)")
  fi
fi

secrets=$(mktemp -d)
trap 'rm -rf "$secrets"' EXIT
python3 - "$secrets" <<'PYTHON'
"""Write pip's settings about its index as a file for the build, and the certificate they name beside it."""
import ast, pathlib, subprocess, sys

folder = pathlib.Path(sys.argv[1])
wanted = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
found = {}
# The environment is listed first and comes before the files, in which `install` comes before `global`.
for rank in ("global.", "install.", ":env:."):
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        if key.startswith(rank):
            found[key.removeprefix(rank)] = ast.literal_eval(value)
lines = [f"{key} = {' '.join(found[key].split())}" for key in wanted if key in found]
if certificate := found.get("cert"):
    (folder / "ca.crt").write_bytes(pathlib.Path(certificate).read_bytes())
    lines.append("cert = /run/secrets/ca.crt")
(folder / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
(folder / "ca.crt").touch()
PYTHON

arguments=(
  --tag "$name" --file Dockerfile
  --secret "id=pip.conf,src=$secrets/pip.conf" --secret "id=ca.crt,src=$secrets/ca.crt"
  --build-arg "VERSION=$version" --build-arg "REVISION=$revision" --build-arg "SOURCE=${source:-unknown}"
  --build-arg "CREATED=$(date --utc --date="@$epoch" +%Y-%m-%dT%H:%M:%SZ)" --build-arg "SOURCE_DATE_EPOCH=$epoch"
)
[[ -z ${PYTHON_IMAGE:-} ]] || arguments+=(--build-arg "PYTHON_IMAGE=$PYTHON_IMAGE")
arguments+=("${options[@]}")

case $builder in
docker) DOCKER_BUILDKIT=1 docker build "${arguments[@]}" . ;;
# HEALTHCHECK is not part of the OCI format. Isolation by chroot works also where the builder is itself in a container.
podman | buildah)
  "$builder" build "${arguments[@]}" --format docker --isolation chroot --network host --layers --timestamp "$epoch" .
  ;;
*) echo "building the image needs docker, podman or buildah" && exit 1 ;;
esac >&2
echo "$name"
