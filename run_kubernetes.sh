#!/usr/bin/env bash
# Apply an overlay of k8s/, wait for the rollout, forward a port and show how to ask it. Settings: OVERLAY, PORT.
set -euo pipefail
cd "$(dirname "$0")"
overlay=k8s/overlays/${OVERLAY:-cpu} port=${PORT:-8000}
command -v kubectl >/dev/null || { echo "install kubectl: https://kubernetes.io/docs/tasks/tools" >&2; exit 1; }
[[ -d $overlay ]] || { echo "there is no $overlay; OVERLAY is one of: $(cd k8s/overlays && echo *)" >&2; exit 1; }
kubectl version >/dev/null 2>&1 || { echo "no cluster answers: kubectl config use-context NAME" >&2; exit 1; }
kubectl apply --kustomize "$overlay"
kubectl rollout status deployment/tabserve --timeout 180s ||
  { kubectl describe pods --selector app.kubernetes.io/name=tabserve; echo "the rollout did not end" >&2; exit 1; }
echo "Tabserve answers at http://localhost:$port/ until Ctrl-C. Try:"
sed -n '/^curl .*"RM":{"0":6.575}/p' README.md | sed "s/:8000/:$port/"
exec kubectl port-forward service/tabserve "$port:http"
