#!/usr/bin/env bash
# Build the image with a model in it, run it, wait until it is ready and show a request. Settings: IMAGE, MODEL, PORT.
set -euo pipefail
cd "$(dirname "$0")"
port=${PORT:-8000}
image=$(MODEL=${MODEL:-boston-housing} docker/build.sh)
container=$(docker run --detach --publish "127.0.0.1:$port:8080" --read-only --tmpfs /tmp --cap-drop ALL \
  --security-opt no-new-privileges "$image")
ready() { docker exec "$container" docker/entrypoint.sh healthcheck >/dev/null 2>&1; }
for _ in $(seq 100); do if ready; then break; else sleep 0.3; fi; done
ready || { docker logs "$container"; docker rm --force "$container"; echo "the server did not become ready; see its log above" >&2; exit 1; }
echo "Tabserve answers at http://localhost:$port/; stop it with: docker stop ${container::12}. Try:"
sed -n '/^curl .*"RM":{"0":6.575}/p' README.md | sed "s/:8000/:$port/"
