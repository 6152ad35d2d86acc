{{/* The pod of a part: one container, and for runners the dispatcher as a native sidecar. */}}
{{- define "holdfast.pod" -}}
{{- $root := .root -}}
{{- $part := .part -}}
{{- $values := $part.values -}}
{{- $sidecar := and (eq $part.service "runner") $values.sidecar -}}
{{- /* What a process does at its end: it drains, then waits for open calls, each within the grace. */ -}}
{{- $grace := add $values.preStopSleep (mul 2 (ceil $values.drainGrace)) 5 -}}
{{- $dispatcher := deepCopy $root.Values.defaults -}}
{{- include "holdfast.lay" (dict "under" $dispatcher "over" $root.Values.dispatcher) -}}
{{- if $sidecar -}}
{{- $grace = add $grace (mul 2 (ceil $dispatcher.drainGrace)) -}}
{{- end -}}
metadata:
  labels:
    {{- include "holdfast.selector" . | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ $part.name }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $grace }}
  securityContext:
    {{- include "holdfast.podSecurity" . | nindent 4 }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.topologySpread.keys }}
  topologySpreadConstraints:
    {{- range . }}
    - topologyKey: {{ . }}
      maxSkew: 1
      whenUnsatisfiable: {{ $values.topologySpread.whenUnsatisfiable }}
      labelSelector:
        matchLabels:
          {{- include "holdfast.selector" $ | nindent 10 }}
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
  {{- if $sidecar }}
  initContainers:
    {{- $image := deepCopy $root.Values.image -}}
    {{- include "holdfast.image.own" (dict "image" $image "own" $dispatcher.image) -}}
    {{- $beside := dict "root" $root "service" "dispatcher" "values" $dispatcher "image" $image "sidecar" true }}
    - {{- include "holdfast.container" $beside | nindent 6 }}
  {{- end }}
  containers:
    - {{- include "holdfast.container" (dict "root" $root "service" $part.service "values" $values "image" $part.image "sidecar" false) | nindent 6 }}
  volumes:
    - name: tmp-{{ $part.service }}
      emptyDir:
        sizeLimit: {{ $values.tmpSize }}
    {{- if $sidecar }}
    - name: tmp-dispatcher
      emptyDir:
        sizeLimit: {{ $dispatcher.tmpSize }}
    {{- end }}
    {{- if or $sidecar (eq $part.service "dispatcher") }}
    {{- with $root.Values.dispatcher.signing }}
    {{- if .existingSecret }}
    - name: signing
      secret:
        secretName: {{ .existingSecret }}
        {{- with .items }}
        items:
          {{- toYaml . | nindent 10 }}
        {{- end }}
    {{- end }}
    {{- end }}
    {{- end }}
    {{- if $root.Values.identity.auth }}
    {{- if eq $part.service "runner" }}
    - name: runner-token
      secret:
        secretName: {{ $root.Values.identity.runnerSecret }}
    {{- else if not (has $part.service (list "dispatcher" "console")) }}
    - name: identity
      secret:
        secretName: {{ $root.Values.identity.existingSecret }}
    {{- end }}
    {{- end }}
    {{- if eq $part.service "console" }}
    - name: console
      secret:
        secretName: {{ $values.existingSecret }}
        items:
          - {key: console-secret, path: console-secret}
          {{- with $values.oidc.secretKey }}
          - {key: {{ . }}, path: oidc-secret}
          {{- end }}
    {{- end }}
    {{- if include "holdfast.readsPayloads" (dict "root" $root "service" $part.service) }}
    - name: payloads
      {{- include "holdfast.payloads" $root.Values.payloads.existingSecret | nindent 6 }}
    {{- end }}
    {{- with $root.Values.tls.existingSecret }}
    - name: tls
      secret:
        secretName: {{ . }}
    {{- end }}
    {{- with $values.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
