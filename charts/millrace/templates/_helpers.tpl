{{/* The application's name, as in app.kubernetes.io/name. */}}
{{- define "millrace.name" -}}
{{- .Values.nameOverride | default "millrace-operator" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The objects' name: the application's, with the release before it unless the one already says the other. */}}
{{- define "millrace.fullname" -}}
{{- $name := include "millrace.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else if hasPrefix (printf "%s-" .Release.Name) $name -}}
{{- $name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the operator's pods. Never changes in a release: a Deployment's selector is immutable. */}}
{{- define "millrace.selectorLabels" -}}
app.kubernetes.io/name: {{ include "millrace.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Labels of every object. merge keeps what the first has, so no value can take one of the chart's own away. */}}
{{- define "millrace.labels" -}}
{{- $own := dict
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/component" "operator"
  "app.kubernetes.io/part-of" "millrace"
  "app.kubernetes.io/managed-by" .Release.Service
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_")
-}}
{{- toYaml (merge $own (include "millrace.selectorLabels" . | fromYaml) .Values.extraLabels) -}}
{{- end -}}

{{/* Labels of the operator's pods. */}}
{{- define "millrace.podLabels" -}}
{{- toYaml (merge (include "millrace.labels" . | fromYaml) .Values.podLabels) -}}
{{- end -}}

{{- define "millrace.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "millrace.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* repository:tag. Call with (list $imageValues $defaultTag). */}}
{{- define "millrace.image" -}}
{{- $image := index . 0 -}}
{{- printf "%s:%s" $image.repository ($image.tag | default (index . 1)) -}}
{{- end -}}

{{/* The subject of every binding. */}}
{{- define "millrace.subjects" -}}
- kind: ServiceAccount
  name: {{ include "millrace.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{/* nvidia.com/gpu=8,amd.com/gpu=4: of a map of resource to count. int64, because numbers of a value are floats. */}}
{{- define "millrace.gpuBudgets" -}}
{{- $budgets := list -}}
{{- range $resource, $gpus := . -}}
{{- $budgets = append $budgets (printf "%s=%d" $resource (int64 $gpus)) -}}
{{- end -}}
{{- join "," $budgets -}}
{{- end -}}
