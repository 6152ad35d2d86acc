{{- define "holdfast.podSecurity" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "holdfast.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* One service's container: `.service`, `.values`, `.image`, and whether it is a `.sidecar`. */}}
{{- define "holdfast.container" -}}
{{- $port := include "holdfast.port" .service | int -}}
name: {{ .service }}
image: {{ include "holdfast.image" .image }}
imagePullPolicy: {{ .image.pullPolicy }}
args: [serve, {{ .service }}]
{{- if .sidecar }}
restartPolicy: Always
{{- end }}
ports:
  - name: {{ .service }}
    containerPort: {{ $port }}
  {{- if and .root.Values.telemetry.metrics (ne .service "console") }}
  - name: {{ .sidecar | ternary "metrics-sidecar" "metrics" }}
    containerPort: {{ include "holdfast.metricsPort" .service }}
  {{- end }}
env:
  {{- $_ := set . "port" $port }}
  {{- include "holdfast.env" . | nindent 2 }}
{{- with .values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- include "holdfast.probes" (dict "service" .service "port" (include "holdfast.healthPort" . | int) "sidecar" .sidecar) }}
{{- if and (not .sidecar) .values.preStopSleep }}
lifecycle:
  preStop:
    sleep:
      seconds: {{ .values.preStopSleep }}
{{- end }}
resources:
  {{- toYaml (.sidecar | ternary (.values.sidecar | default dict) .values).resources | nindent 2 }}
securityContext:
  {{- include "holdfast.containerSecurity" . | nindent 2 }}
volumeMounts:
  - name: tmp-{{ .service }}
    mountPath: /tmp
  {{- if eq .service "dispatcher" }}
  {{- with .root.Values.dispatcher.signing.existingSecret }}
  - name: signing
    mountPath: /etc/holdfast/signing
    readOnly: true
  {{- end }}
  {{- end }}
  {{- if and (eq .service "invoker") .values.batchSources.declared }}
  - name: batch-sources
    mountPath: /etc/holdfast/batch-sources
    readOnly: true
  - name: batch-secrets
    mountPath: /etc/holdfast/batch-secrets
    readOnly: true
  {{- end }}
  {{- if .root.Values.identity.auth }}
  {{- if eq .service "runner" }}
  - name: runner-token
    mountPath: /etc/holdfast/token
    readOnly: true
  {{- else if not (has .service (list "dispatcher" "console")) }}
  - name: identity
    mountPath: /etc/holdfast/identity
    readOnly: true
  {{- end }}
  {{- end }}
  {{- if eq .service "console" }}
  - name: console
    mountPath: /etc/holdfast/console
    readOnly: true
  {{- end }}
  {{- if include "holdfast.readsPayloads" . }}
  - name: payloads
    mountPath: /etc/holdfast/payloads
    readOnly: true
  {{- end }}
  {{- if .root.Values.tls.existingSecret }}
  - name: tls
    mountPath: /etc/holdfast/tls
    readOnly: true
  {{- end }}
  {{- with .values.volumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/*
Health never looks at the database: a service whose ledger is away stays up, and heals by itself. A sidecar has no
startup probe, for the runner would wait for it. A runner is ready once it has had a session with an Invoker: until then
those before it stay. The console speaks HTTP, and only to names that it knows.
*/}}
{{- define "holdfast.probes" -}}
{{- if not .sidecar }}
startupProbe:
  {{- include "holdfast.asked" . | nindent 2 }}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 60
{{- end }}
readinessProbe:
  {{- $about := eq .service "runner" | ternary "holdfast.v1.RunnerService" "" }}
  {{- include "holdfast.asked" (dict "service" .service "port" .port "about" $about) | nindent 2 }}
  periodSeconds: 5
  timeoutSeconds: 3
livenessProbe:
  {{- include "holdfast.asked" . | nindent 2 }}
  {{- if .sidecar }}
  initialDelaySeconds: 30
  {{- end }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{- define "holdfast.asked" -}}
{{- if eq .service "console" -}}
httpGet:
  path: /healthz
  port: {{ .port }}
  httpHeaders:
    - {name: Host, value: localhost}
{{- else -}}
grpc: {port: {{ .port }}{{ with .about }}, service: {{ . }}{{ end }}}
{{- end -}}
{{- end -}}

{{/* By which a process of ours calls the services over TLS, and serves. */}}
{{- define "holdfast.tlsFiles" -}}
- name: HOLDFAST_TLS_CERT_FILE
  value: /etc/holdfast/tls/tls.crt
- name: HOLDFAST_TLS_KEY_FILE
  value: /etc/holdfast/tls/tls.key
- name: HOLDFAST_TLS_CA_FILE
  value: /etc/holdfast/tls/ca.crt
{{- end -}}

{{/* Where probes ask: probes speak no TLS, so beside it health has a port of its own. */}}
{{- define "holdfast.healthPort" -}}
{{- $port := include "holdfast.port" .service | int -}}
{{- or (eq .service "console") (empty .root.Values.tls.existingSecret) | ternary $port (add $port 100) -}}
{{- end -}}

{{/* Where Prometheus reads; a runner's pod has a sidecar's beside its own. */}}
{{- define "holdfast.metricsPort" -}}
{{- add (include "holdfast.port" . | int) 200 -}}
{{- end -}}

{{- define "holdfast.env" -}}
- name: HOLDFAST_LISTEN
  value: "0.0.0.0:{{ .port }}"
{{- with .root.Values.identity }}
{{- if .auth }}
- name: HOLDFAST_AUTH
  value: {{ .auth | quote }}
{{- if and (contains "jwt" .auth) (ne $.service "console") }}
- name: HOLDFAST_JWT_ISSUER
  value: {{ .jwt.issuer | quote }}
- name: HOLDFAST_JWT_AUDIENCE
  value: {{ .jwt.audience | quote }}
{{- end }}
{{- if eq $.service "runner" }}
- name: HOLDFAST_TOKEN_FILE
  value: /etc/holdfast/token/token
{{- else if not (has $.service (list "dispatcher" "console")) }}
- name: HOLDFAST_CAPABILITY_KEY_FILE
  value: /etc/holdfast/identity/capability-key
{{- end }}
{{- else }}
- name: HOLDFAST_ALLOW_INSECURE_BIND
  value: "true"
{{- end }}
{{- end }}
{{- if .root.Values.tls.existingSecret }}
{{ include "holdfast.tlsFiles" . }}
{{- if ne .service "console" }}
{{- if .root.Values.tls.clientCertificates }}
- name: HOLDFAST_TLS_CLIENT_CA_FILE
  value: /etc/holdfast/tls/ca.crt
{{- end }}
- name: HOLDFAST_HEALTH_LISTEN
  value: "0.0.0.0:{{ include "holdfast.healthPort" . }}"
{{- end }}
{{- end }}
{{- if and .root.Values.telemetry.metrics (ne .service "console") }}
- name: HOLDFAST_METRICS_LISTEN
  value: "0.0.0.0:{{ include "holdfast.metricsPort" .service }}"
{{- end }}
{{- with .root.Values.telemetry.traces }}
{{- if and .endpoint (ne $.service "console") }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
- name: OTEL_TRACES_SAMPLER
  value: parentbased_traceidratio
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .ratio | quote }}
{{- end }}
{{- end }}
{{- if include "holdfast.readsPayloads" . }}
- name: HOLDFAST_PAYLOAD_KEYS_FILE
  value: /etc/holdfast/payloads/payload-keys
{{- end }}
- name: HOLDFAST_DRAIN_GRACE
  value: {{ .values.drainGrace | quote }}
{{- if eq .service "runner" }}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: HOLDFAST_ADVERTISE
  value: "$(POD_IP):{{ .port }}"
- name: HOLDFAST_AGENTS
  value: {{ join "," .values.agents | quote }}
- name: HOLDFAST_SLOTS
  value: {{ .values.slots | int | quote }}
{{- if and .root.Values.identity.auth (eq .values.autoscaling.kind "keda") .values.autoscaling.intents }}
- name: KEDA_SCALER_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .root.Values.identity.scalerSecret }}
      key: token
{{- end }}
{{- $root := .root }}
{{- range $service := list "invoker" "checkpoint" "approval" }}
- name: HOLDFAST_{{ upper $service }}_ADDRESS
  value: {{ include "holdfast.address" (dict "root" $root "service" $service) }}
{{- end }}
{{- else if eq .service "console" }}
{{- $root := .root }}
{{- range $service := list "invoker" "checkpoint" "approval" "dispatcher" }}
- name: HOLDFAST_{{ upper $service }}_ADDRESS
  value: {{ include "holdfast.address" (dict "root" $root "service" $service) }}
{{- end }}
- name: HOLDFAST_CONSOLE_SECRET_FILE
  value: /etc/holdfast/console/console-secret
- name: HOLDFAST_CONSOLE_HOSTS
  value: {{ join "," (append .values.hostnames "localhost") | quote }}
- name: HOLDFAST_CONSOLE_HTTPS
  value: "true"
{{- with .values.oidc }}
{{- if .issuer }}
- name: HOLDFAST_CONSOLE_OIDC_ISSUER
  value: {{ .issuer | quote }}
- name: HOLDFAST_CONSOLE_OIDC_CLIENT_ID
  value: {{ .clientId | quote }}
{{- if .secretKey }}
- name: HOLDFAST_CONSOLE_OIDC_SECRET_FILE
  value: /etc/holdfast/console/oidc-secret
{{- end }}
{{- end }}
{{- end }}
{{- else }}
- name: HOLDFAST_DATABASE_URL
  {{- include "holdfast.databaseUrl" (dict "root" .root "role" .service) | nindent 2 }}
{{- end }}
{{- if and (eq .service "dispatcher") .root.Values.dispatcher.signing.existingSecret }}
- name: HOLDFAST_SECRETS_DIR
  value: /etc/holdfast/signing
{{- end }}
{{- if and (eq .service "invoker") .values.batchSources.declared }}
- name: HOLDFAST_BATCH_SOURCES_FILE
  value: /etc/holdfast/batch-sources/sources.toml
- name: HOLDFAST_SECRETS_DIR
  value: /etc/holdfast/batch-secrets
{{- end }}
{{- range $name, $value := .values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- /* Not empty if a service has the keys that seal payloads. */ -}}
{{- define "holdfast.readsPayloads" -}}
{{- with .root.Values.payloads -}}
{{- if and .existingSecret (or (eq $.service "runner") (and .console (eq $.service "console"))) }}yes{{ end -}}
{{- end -}}
{{- end -}}

{{- /* The volume with the keys, out of the secret of this name. */ -}}
{{- define "holdfast.payloads" -}}
secret:
  secretName: {{ . }}
  items:
    - {key: payload-keys, path: payload-keys}
{{- end -}}

{{- define "holdfast.databaseUrl" -}}
valueFrom:
  secretKeyRef:
    name: {{ .root.Values.database.existingSecret }}
    key: {{ get .root.Values.database.keys .role }}
{{- end -}}
