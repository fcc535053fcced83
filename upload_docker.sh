#!/usr/bin/env bash
# Build the image and push it: IMAGE=registry.example.com/team/tabserve ./upload_docker.sh. Settings as in docker/build.sh.
set -euo pipefail
cd "$(dirname "$0")"
[[ ${IMAGE:-} == */* ]] || { echo "set IMAGE to the repository to push to: IMAGE=registry.example.com/team/tabserve" >&2; exit 1; }
image=$(CLEAN=$([[ -n ${ALLOW_DIRTY:-} ]] || echo 1) docker/build.sh)
pushed=$(docker push "$image" | tee /dev/stderr) ||
  { echo "$image was not pushed: check the name, and log in with docker login" >&2; exit 1; }
echo "pushed $image, which is $IMAGE@$(sed -n 's/.*digest: \(sha256:[0-9a-f]*\).*/\1/p' <<<"$pushed" | tail -n 1)"
