#!/usr/bin/env bash
# Build the image: IMAGE:version, with VARIANT=cuda IMAGE:version-cuda, with TARGET=train IMAGE:version-train.
# MODEL=boston-housing bakes a model in. The last line is the image's name.
set -euo pipefail
cd "$(dirname "$0")/.."
docker info >/dev/null 2>&1 ||
  { echo "no Docker engine answers: start Docker, or install it (https://docs.docker.com/engine/install)" >&2; exit 1; }

version=$(sed -n 's/^VERSION = "\(.*\)"/\1/p' app/version.py)
suffix=${TARGET:+-$TARGET}
[[ ${VARIANT:-cpu} == cpu ]] || suffix=-$VARIANT
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[[ -z $(git status --porcelain -- Dockerfile docker app model notebooks gunicorn.conf.py '*.txt' 2>/dev/null) ]] ||
  revision+=-dirty
name=${IMAGE:-tabserve}:$version$suffix
docker build --tag "$name" ${TARGET:+--target "$TARGET"} \
  --build-arg VARIANT="${VARIANT:-cpu}" --build-arg MODEL="${MODEL:-}" --build-arg VERSION="$version" \
  --build-arg REVISION="$revision" \
  --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct 2>/dev/null || echo 0)" . >&2
echo "$name"
