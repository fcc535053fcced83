#!/bin/sh
# What the image runs: serve (the default, and what SageMaker passes), a command of `python -m model`, or any command.
set -eu

# Empty, as compose passes on what is not set, is not set: gunicorn takes an empty text for a number.
[ -n "${WEB_CONCURRENCY:-}" ] || unset WEB_CONCURRENCY

# Vertex AI names its port.
export PORT="${PORT:-${AIP_HTTP_PORT:-8080}}" PYTHONPATH=/srv/tabserve

# Name the store: as it is set, else where SageMaker and Azure ML mount a model, else the image's own.
find_store() {
  [ -z "${TABSERVE_STORE:-}" ] || return 0
  TABSERVE_STORE=/models
  for mounted in /opt/ml/model "${AZUREML_MODEL_DIR:-/var/azureml-app/azureml-models}"; do
    if [ -d "$mounted" ] && [ -n "$(ls -A "$mounted")" ]; then
      TABSERVE_STORE=$(python -m model find "$mounted")
      break
    fi
  done
  export TABSERVE_STORE
}

case "${1:-serve}" in
  serve)
    [ $# -eq 0 ] || shift
    find_store
    cd /srv/tabserve
    exec gunicorn "$@"
    ;;
  healthcheck) # without urllib, which would ask a proxy that the environment names
    exec python -c "
import http.client, sys
connection = http.client.HTTPConnection('${TABSERVE_HOST:-localhost}', $PORT, timeout=2)
connection.request('GET', '/readyz')
sys.exit(connection.getresponse().status != 200)"
    ;;
  train)
    python -c 'import sklearn' 2>/dev/null || {
      echo "this image cannot train; build the one that can: docker build --target train ." >&2
      exit 1
    }
    exec python -m model --store "${TABSERVE_STORE:-/models}" "$@"
    ;;
  list | show | verify | predict | pull | pack)
    find_store
    exec python -m model --store "$TABSERVE_STORE" "$@"
    ;;
  *)
    exec "$@"
    ;;
esac
