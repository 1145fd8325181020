{{/* Name of the chart, for labels. */}}
{{- define "operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Name of everything that the release installs. */}}
{{- define "operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "operator.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "operator.labels" -}}
{{ include "operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "operator.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What the operator does with the objects of a namespace, and with the Secrets it reads and writes there. */}}
{{- define "operator.namespaceRules" -}}
- apiGroups: [cloudidentity.dev]
  resources: [identityproviders, appidapplications, accesstokens]
  verbs: [get, list, watch]
# The finalizer, and the annotation that names the tenant.
- apiGroups: [cloudidentity.dev]
  resources: [appidapplications]
  verbs: [patch]
- apiGroups: [cloudidentity.dev]
  resources: [identityproviders/status, appidapplications/status, accesstokens/status]
  verbs: [patch]
# A server-side apply that creates is a patch, and the API server asks for create too. What is no longer wanted is
# collected by its owner reference: the operator never deletes a Secret.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch]
{{ include "operator.bundleRules" . }}
{{ include "operator.eventRules" . }}
{{- end -}}

{{/* CA bundles. */}}
{{- define "operator.bundleRules" -}}
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch]
{{- end -}}

{{- define "operator.eventRules" -}}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}

{{- define "operator.clusterProviderRules" -}}
- apiGroups: [cloudidentity.dev]
  resources: [clusteridentityproviders]
  verbs: [get, list, watch]
- apiGroups: [cloudidentity.dev]
  resources: [clusteridentityproviders/status]
  verbs: [patch]
# Labels, for allowedNamespaces; the UID of kube-system, which names the cluster.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get, list, watch]
{{- end -}}

{{/* RBAC cannot narrow a create to a name: the object has none yet. */}}
{{- define "operator.leaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [cloud-identity-operator]
  verbs: [get, update]
{{- end -}}

{{/* Settings that contradict each other, in words that a schema cannot say. */}}
{{- define "operator.checks" -}}
{{- if and (not .Values.leaderElection) (gt (int .Values.replicaCount) 1) -}}
{{- fail "leaderElection: false allows one Pod only: set replicaCount to 0 or 1" -}}
{{- end -}}
{{- if and (not .Values.clusterProviders.enabled) (not .Values.watchNamespaces) -}}
{{- fail "clusterProviders.enabled: false goes with watchNamespaces: without a list of namespaces the operator has a ClusterRole anyway" -}}
{{- end -}}
{{- end -}}
