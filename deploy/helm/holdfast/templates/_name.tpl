{{/* The beginning of all names: at most 40 characters, for names end at 63. */}}
{{- define "holdfast.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What picks the pods of this release. */}}
{{- define "holdfast.release" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* What picks the pods of one component: a service, or one pool of runners. */}}
{{- define "holdfast.selector" -}}
{{ include "holdfast.release" .root }}
app.kubernetes.io/component: {{ .part.service }}
{{- with .part.pool }}
holdfast.dev/pool: {{ . }}
{{- end }}
{{- end -}}

{{- define "holdfast.labels" -}}
{{ include "holdfast.selector" . }}
{{ include "holdfast.common" .root }}
{{- end -}}

{{- define "holdfast.common" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The address of a service for the others: every pod of it, by the name of a headless service. */}}
{{- define "holdfast.address" -}}
{{ include "holdfast.fullname" .root }}-{{ .service }}.{{ .root.Release.Namespace }}.svc:{{ include "holdfast.port" .service }}
{{- end -}}

{{- define "holdfast.port" -}}
{{ get (dict "invoker" 7401 "checkpoint" 7402 "runner" 7403 "approval" 7404 "dispatcher" 7405 "console" 7480) . }}
{{- end -}}

{{- define "holdfast.image" -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag }}
{{- end -}}
{{- end -}}
