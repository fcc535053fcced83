#!/usr/bin/env bash
# Apply an overlay of k8s/, wait for its rollout, forward a port and show a request. Settings: OVERLAY, PORT, TIMEOUT.
set -euo pipefail
cd "$(dirname "$0")"
overlay=${OVERLAY:-cpu} port=${PORT:-8000}
command -v kubectl >/dev/null || { echo "install kubectl: https://kubernetes.io/docs/tasks/tools" >&2; exit 1; }
[[ -d k8s/overlays/$overlay ]] ||
  { echo "k8s/overlays/$overlay not found; set OVERLAY to one of: $(cd k8s/overlays && echo *)" >&2; exit 1; }
kubectl version >/dev/null 2>&1 || { echo "the cluster does not answer; choose one: kubectl config use-context NAME" >&2; exit 1; }
kubectl apply --kustomize "k8s/overlays/$overlay"
case $overlay in
  cpu | gpu) name=tabserve ;;
  canary | shadow) name=tabserve-$overlay ;;
  *) exit 0 ;; # these have no Deployment of their own
esac
# A first apply starts one replica: start the autoscaler's minimum, and wait for all replicas.
least=$(kubectl get hpa "$name" --ignore-not-found --output 'jsonpath={.spec.minReplicas}')
replicas=$(kubectl get deployment "$name" --output 'jsonpath={.spec.replicas}')
((replicas >= ${least:-1})) || kubectl scale "deployment/$name" --replicas "$least"
kubectl rollout status "deployment/$name" --timeout "${TIMEOUT:-600s}" || {
  kubectl describe pods --selector "app.kubernetes.io/instance=$name"
  kubectl get events --sort-by .lastTimestamp # `describe` by selector leaves them out
  echo "the rollout did not end; see the pods and events above" >&2
  exit 1
}
echo "Tabserve answers at http://localhost:$port/ until Ctrl-C. Try:"
sed -n '/^curl .*"RM":{"0":6.575}/p' README.md | sed "s/:8000/:$port/"
exec kubectl port-forward "service/$name" "$port:http"
