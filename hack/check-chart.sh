#!/usr/bin/env bash
# Checks the chart without a cluster: lint, both modes, what the schema refuses, the CRDs verbatim, and that the operator may
# neither delete nor use a wildcard.
#
#   HELM=path/to/helm hack/check-chart.sh
set -euo pipefail
cd "$(dirname "$0")/.."
helm=${HELM:-helm}
chart=charts/cloud-identity-operator

fail() { echo "check-chart: $*" >&2; exit 1; }
render() { "$helm" template cloud-identity-operator "$chart" --namespace operators "$@"; }
refuses() { # what, and the words of the refusal
  local words=$1 output
  shift
  if output=$(render "$@" 2>&1); then fail "accepted $*"; fi
  [[ $output == *"$words"* ]] || fail "$* is refused with other words than \"$words\": $output"
}

"$helm" lint --quiet "$chart"

everywhere=$(render)
listed=$(render --set 'watchNamespaces={shop,billing}')
listed_only=$(render --set 'watchNamespaces={shop}' --set clusterProviders.enabled=false)
nobody=$(render --set replicaCount=0)
[[ $nobody == *"replicas: 0"* ]] || fail "replicaCount 0 does not reach the Deployment"

for crd in "$chart"/files/crds/*.yaml; do
  [[ $everywhere == *"$(<"$crd")"* ]] || fail "$crd does not come out as it is"
  grep -q 'helm.sh/resource-policy: keep' "$crd" || fail "$crd would be deleted with the release"
  if [[ -d crds ]]; then cmp -s "$crd" "crds/${crd##*/}" || fail "$crd is stale: run make generate"; fi
done

for mode in "$everywhere" "$listed" "$listed_only"; do
  rights=$(grep -A1000 'templates/rbac.yaml' <<<"$mode" | awk '/^# Source/ { ours = /rbac.yaml/ } ours')
  ! grep -Eq '\b(delete|deletecollection|escalate|bind|impersonate)\b|\*' <<<"$rights" || fail "the operator's account may do too much"
done
for mode in "$listed" "$listed_only"; do
  ! awk '/^kind: ClusterRole$/ { inside = 1 } /^---/ { inside = 0 } inside && /secrets/' <<<"$mode" | grep -q . || fail "watchNamespaces leaves a right to Secrets of the cluster"
done
! grep -Eq '^kind: ClusterRoleBinding' <<<"$listed_only" || fail "without cluster providers there is still a ClusterRoleBinding"
[[ $listed_only == *"--cluster-providers=false"* ]] || fail "the operator is not told that cluster providers are off"

refuses "/replicaCount" --set replicaCount=-1
refuses "additional properties 'replicas'" --set replicas=1
refuses "/image" --set image.name=x
refuses "/driftInterval" --set driftInterval=soon
refuses "/logFormat" --set logFormat=xml
refuses "/watchNamespaces" --set 'watchNamespaces={Not_A_Name}'
refuses "/providerHosts" --set 'providerHosts={https://appid.example.com}'
refuses "one Pod only" --set leaderElection=false --set replicaCount=2
refuses "goes with watchNamespaces" --set clusterProviders.enabled=false
refuses "kubeVersion" --kube-version 1.29.9
echo "check-chart: ok"
