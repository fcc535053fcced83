#!/bin/sh
# The image's entry point: serve (the default, and SageMaker's argument), a command of `python -m model`, or any command.
set -eu

# Compose passes an unset variable on as empty, which gunicorn would read as a number.
[ -n "${WEB_CONCURRENCY:-}" ] || unset WEB_CONCURRENCY

# Vertex AI sets AIP_HTTP_PORT.
export PORT="${PORT:-${AIP_HTTP_PORT:-8080}}" PYTHONPATH=/srv/tabserve

# Find the store: TABSERVE_STORE if set, else the folder where SageMaker or Azure ML mount a model, else the image's own.
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
  healthcheck) # without urllib, which would use a proxy from the environment
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
  list | show | diff | verify | predict | pull | pack | promote | rollback | tag | prune | history | mirror)
    find_store
    exec python -m model --store "$TABSERVE_STORE" "$@"
    ;;
  *)
    exec "$@"
    ;;
esac
