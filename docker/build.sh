#!/usr/bin/env bash
# Build the image: IMAGE:version, with VARIANT=cuda IMAGE:version-cuda, with TARGET=train IMAGE:version-train.
# MODEL=boston-housing bakes a model in; EXTRAS=s3 adds the packages for stores there; CLEAN=1 refuses uncommitted changes. The last line is the image's name.
set -euo pipefail
cd "$(dirname "$0")/.."
# Changes to files that go into the image.
if ! changed=$(git status --porcelain -- Dockerfile .dockerignore docker app model notebooks gunicorn.conf.py '*.txt' \
  2>/dev/null) && [[ -n ${CLEAN:-} ]]; then
  echo "this is not a git clone: push from a clone, or set ALLOW_DIRTY=1" >&2
  exit 1
fi
[[ -z ${CLEAN:-} || -z $changed ]] ||
  { echo "the working tree has uncommitted changes: commit them, or set ALLOW_DIRTY=1" >&2; exit 1; }
docker info >/dev/null 2>&1 ||
  { echo "the Docker engine does not answer: start Docker, or install it (https://docs.docker.com/engine/install)" >&2; exit 1; }

version=$(sed -n 's/^VERSION = "\(.*\)"/\1/p' model/version.py)
suffix=${TARGET:+-$TARGET}
[[ ${VARIANT:-cpu} == cpu ]] || suffix=-$VARIANT
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)${changed:+-dirty}
name=${IMAGE:-tabserve}:$version$suffix
docker build --tag "$name" ${TARGET:+--target "$TARGET"} \
  --build-arg VARIANT="${VARIANT:-cpu}" --build-arg MODEL="${MODEL:-}" --build-arg EXTRAS="${EXTRAS:-}" \
  --build-arg VERSION="$version" \
  --build-arg REVISION="$revision" \
  --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct 2>/dev/null || echo 0)" . >&2
echo "$name"
