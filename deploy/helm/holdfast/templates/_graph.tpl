{{/*
Who calls whom: the graph of the network policies. `scalers` is KEDA, `test` the pod of `helm test`, `browsers` are those
who may reach the console.
*/}}
{{- define "holdfast.callers" -}}
{{- $console := .Values.console.enabled | ternary "console, " "" -}}
invoker: [runner, {{ $console }}clients, scalers, test]
checkpoint: [runner, {{ $console }}clients, test]
approval: [runner, {{ $console }}clients, test]
runner: [invoker, test]
dispatcher: [{{ $console }}clients, test]
{{- if .Values.console.enabled }}
console: [browsers]
{{- end }}
{{- end -}}

{{- define "holdfast.peer" -}}
- podSelector:
    matchLabels:
      {{- include "holdfast.release" .root | nindent 6 }}
      app.kubernetes.io/component: {{ .service }}
{{- end -}}
