#!/usr/bin/env bash
# Build the image and push it: IMAGE=registry.example.com/team/tabserve ./upload_docker.sh. Settings as in docker/build.sh.
set -euo pipefail
cd "$(dirname "$0")"
[[ ${IMAGE:-} == */* ]] || { echo "IMAGE is where to push: IMAGE=registry.example.com/team/tabserve" >&2; exit 1; }
[[ -n ${ALLOW_DIRTY:-} || -z $(git status --porcelain) ]] ||
  { echo "the tree has changes that no commit names: commit them, or set ALLOW_DIRTY=1" >&2; exit 1; }
image=$(docker/build.sh)
docker push "$image" >&2 || { echo "not pushed: docker login ${IMAGE%%/*}, and is $IMAGE right?" >&2; exit 1; }
digest=$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$image" | grep -F "$IMAGE@" | tail -n 1)
echo "pushed $image, which is $digest"
