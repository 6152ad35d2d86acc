{{/* Who calls whom: the graph of the network policies. `scalers` is KEDA, `test` the pod of `helm test`. */}}
{{- define "holdfast.callers" -}}
invoker: [runner, clients, scalers, test]
checkpoint: [runner, clients, test]
approval: [runner, clients, test]
runner: [invoker, test]
dispatcher: [clients, test]
{{- end -}}

{{- define "holdfast.peer" -}}
- podSelector:
    matchLabels:
      {{- include "holdfast.release" .root | nindent 6 }}
      app.kubernetes.io/component: {{ .service }}
{{- end -}}
