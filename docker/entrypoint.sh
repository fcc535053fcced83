#!/bin/sh
# What the image runs: serve (the default, and what SageMaker passes), a command of `python -m model`, or any command.
set -eu

# Vertex AI names its port; SageMaker and Azure ML mount a model at a path of their own.
export PORT="${PORT:-${AIP_HTTP_PORT:-8080}}"
if [ -z "${TABSERVE_STORE:-}" ]; then
  TABSERVE_STORE=/models
  for mounted in /opt/ml/model "${AZUREML_MODEL_DIR:-/var/azureml-app/azureml-models}"; do
    if [ -d "$mounted" ] && [ -n "$(ls -A "$mounted")" ]; then
      TABSERVE_STORE=$(python -m model find "$mounted")
      break
    fi
  done
fi
export TABSERVE_STORE

case "${1:-serve}" in
  serve)
    [ $# -eq 0 ] || shift
    cd /srv/tabserve
    exec gunicorn --bind "0.0.0.0:$PORT" "$@"
    ;;
  healthcheck)
    exec python -c "from urllib.request import urlopen; urlopen('http://127.0.0.1:$PORT/readyz', timeout=2)"
    ;;
  train)
    python -c 'import sklearn' 2>/dev/null || {
      echo "this image serves and does not train; build the one that does: docker build --target train ." >&2
      exit 1
    }
    exec python -m model --store "$TABSERVE_STORE" "$@"
    ;;
  list | show | verify | predict | pull | pack)
    exec python -m model --store "$TABSERVE_STORE" "$@"
    ;;
  *)
    exec "$@"
    ;;
esac
