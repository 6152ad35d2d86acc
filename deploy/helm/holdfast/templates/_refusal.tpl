{{/* What cannot work is refused in one sentence, before anything is applied. */}}
{{- define "holdfast.refusals" -}}
{{- $values := .root.Values -}}
{{- if not $values.database.existingSecret -}}
{{- fail "database.existingSecret is empty: name the secret that holds the URLs of the ledger, one for each role." -}}
{{- end -}}
{{- if not $values.runner.pools -}}
{{- fail "runner.pools is empty: define at least one pool, with the agents it runs." -}}
{{- end -}}
{{- $identity := $values.identity -}}
{{- if not (or $identity.auth $values.allowInsecureBind) -}}
{{- fail "Without identity who reaches a service may act for any tenant: set identity.auth, or allowInsecureBind=true if the network policies are enforced and enough." -}}
{{- end -}}
{{- if and $identity.auth (not (and $identity.existingSecret $identity.runnerSecret)) -}}
{{- fail "identity.auth needs identity.existingSecret and identity.runnerSecret: the key of leases, and the token of runners." -}}
{{- end -}}
{{- if and (contains "jwt" $identity.auth) (not (and $identity.jwt.issuer $identity.jwt.audience)) -}}
{{- fail "identity.auth has jwt, which needs identity.jwt.issuer and identity.jwt.audience: tokens made for others would be taken." -}}
{{- end -}}
{{- if and $values.gateway.enabled (not $values.gateway.parentRefs) -}}
{{- fail "gateway.enabled needs gateway.parentRefs: a route that belongs to no gateway serves nobody." -}}
{{- end -}}
{{- $backend := $values.gateway.backendTls -}}
{{- if and $values.gateway.enabled $values.tls.existingSecret $backend.enabled (eq (empty $backend.caCertificateRefs) (empty $backend.wellKnownCACertificates)) -}}
{{- fail "gateway.enabled with tls.existingSecret needs one of gateway.backendTls.caCertificateRefs and gateway.backendTls.wellKnownCACertificates, by which the gateway trusts the services, or gateway.backendTls.enabled=false." -}}
{{- end -}}
{{- if and $values.telemetry.serviceMonitor.enabled (not $values.telemetry.metrics) -}}
{{- fail "telemetry.serviceMonitor.enabled needs telemetry.metrics: there would be nothing to read." -}}
{{- end -}}
{{- include "holdfast.refusals.console" .root -}}
{{- $dispatchers := $values.dispatcher.enabled -}}
{{- include "holdfast.refusals.image" (dict "of" "image" "image" $values.image) -}}
{{- range $part := .parts -}}
{{- $of := $part.pool | empty | ternary $part.service (printf "runner.pools.%s" $part.pool) -}}
{{- include "holdfast.refusals.image" (dict "of" (printf "%s.image" $of) "image" $part.image) -}}
{{- if eq $part.service "runner" -}}
{{- $dispatchers = or $dispatchers $part.values.sidecar -}}
{{- if not $part.values.agents -}}
{{- fail (printf "%s.agents is empty: name the apps whose agents the pool runs, each as module:name." $of) -}}
{{- end -}}
{{- end -}}
{{- range $from := concat (default list $part.values.envFrom) (default list $part.values.volumes) -}}
{{- $secret := dig "secretRef" "name" (dig "secret" "secretName" "" $from) $from -}}
{{- if and $secret (has $secret (list $values.database.existingSecret $values.dispatcher.signing.existingSecret $identity.existingSecret $values.console.existingSecret $values.invoker.batchSources.existingSecret)) -}}
{{- fail (printf "%s names the secret %s: a runner executes agents, and gets no secret of the platform." $of $secret) -}}
{{- end -}}
{{- end -}}
{{- include "holdfast.refusals.scaling" (dict "root" $.root "of" $of "service" $part.service "values" $part.values) -}}
{{- include "holdfast.refusals.env" (dict "of" $of "part" $part) -}}
{{- end -}}
{{- if not $dispatchers -}}
{{- fail "No dispatcher runs, and effects would wait for ever: set dispatcher.enabled, or sidecar for a runner pool." -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.refusals.console" -}}
{{- $console := .Values.console -}}
{{- if $console.enabled -}}
{{- if not $console.existingSecret -}}
{{- fail "console.existingSecret is empty: name the secret that seals the cookies, or pods could not read each other's." -}}
{{- end -}}
{{- if not $console.hostnames -}}
{{- fail "console.hostnames is empty: name the hosts under which browsers reach the console; it answers to no others." -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not $console.browsers) -}}
{{- fail "console.browsers is empty: name the peers that may reach the console, such as the pods of the ingress." -}}
{{- end -}}
{{- if and $console.oidc.issuer (not (and $console.oidc.clientId (contains "jwt" .Values.identity.auth))) -}}
{{- fail "console.oidc.issuer needs console.oidc.clientId, and jwt in identity.auth: what the provider gives is a JWT." -}}
{{- end -}}
{{- if and $console.route.enabled (not $console.route.parentRefs) -}}
{{- fail "console.route.enabled needs console.route.parentRefs: a route that belongs to no gateway serves nobody." -}}
{{- end -}}
{{- if and (not .Values.identity.auth) (or $console.ingress.enabled $console.route.enabled) -}}
{{- fail "console.ingress and console.route need identity.auth: whoever came that way could act as anybody." -}}
{{- end -}}
{{- if and $console.ingress.enabled (not $console.ingress.tlsSecret) -}}
{{- fail "console.ingress.enabled needs console.ingress.tlsSecret: people sign in there, which takes TLS." -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.refusals.image" -}}
{{- if not (or .image.tag .image.digest) -}}
{{- fail (printf "%s.tag is empty: name the version to run, or set %s.digest." .of .of) -}}
{{- end -}}
{{- if and (eq .image.tag "latest") (not .image.digest) -}}
{{- fail (printf "%s.tag is latest: name a version, or pods of one deployment would differ." .of) -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.refusals.scaling" -}}
{{- $scaling := .values.autoscaling -}}
{{- if and $scaling.kind (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- fail (printf "%s.autoscaling.minReplicas is greater than its maxReplicas." .of) -}}
{{- end -}}
{{- if and (eq $scaling.kind "hpa") (not (dig "requests" "cpu" "" .values.resources)) -}}
{{- fail (printf "%s.autoscaling.kind is hpa, which needs resources.requests.cpu: it is a percentage of that." .of) -}}
{{- end -}}
{{- if and (eq $scaling.kind "keda") (not (or $scaling.triggers $scaling.intents)) -}}
{{- fail (printf "%s.autoscaling.kind is keda, which needs autoscaling.intents or autoscaling.triggers." .of) -}}
{{- end -}}
{{- if $scaling.intents -}}
{{- if ne .service "runner" -}}
{{- fail (printf "%s.autoscaling.intents: only runners are scaled by the work of intents." .of) -}}
{{- end -}}
{{- if and .root.Values.identity.auth (not .root.Values.identity.scalerSecret) -}}
{{- fail (printf "%s.autoscaling.intents needs identity.scalerSecret: KEDA has to prove who it is." .of) -}}
{{- end -}}
{{- if and .root.Values.tls.existingSecret (not $scaling.authentication) -}}
{{- fail (printf "%s.autoscaling.intents needs autoscaling.authentication: with TLS KEDA has to know whom to trust." .of) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.refusals.env" -}}
{{- $of := .of -}}
{{- range $name, $_ := .part.values.env -}}
{{- if or (has $name (list "HOLDFAST_LISTEN" "HOLDFAST_ADVERTISE" "HOLDFAST_AGENTS" "HOLDFAST_SLOTS" "HOLDFAST_DRAIN_GRACE" "HOLDFAST_SECRETS_DIR" "HOLDFAST_SOURCES_FILE" "HOLDFAST_BATCH_SOURCES_FILE" "HOLDFAST_ALLOW_INSECURE_BIND" "HOLDFAST_DATABASE_URL" "HOLDFAST_AUTH" "HOLDFAST_CAPABILITY_KEY_FILE" "HOLDFAST_TOKEN_FILE" "HOLDFAST_HEALTH_LISTEN" "HOLDFAST_METRICS_LISTEN" "HOLDFAST_CONSOLE_SECRET_FILE" "HOLDFAST_CONSOLE_HOSTS" "HOLDFAST_CONSOLE_HTTPS" "HOLDFAST_CONSOLE_OIDC_ISSUER" "HOLDFAST_CONSOLE_OIDC_CLIENT_ID" "HOLDFAST_CONSOLE_OIDC_SECRET_FILE" "HOLDFAST_PAYLOAD_KEYS_FILE")) (hasSuffix "_ADDRESS" $name) -}}
{{- fail (printf "%s.env names %s, which the chart sets itself." $of $name) -}}
{{- end -}}
{{- if or (hasPrefix "HOLDFAST_SECRET_" $name) (hasPrefix "PGPASS" $name) (has $name (list "HOLDFAST_CAPABILITY_KEY" "HOLDFAST_TOKEN" "HOLDFAST_CONSOLE_SECRET" "HOLDFAST_CONSOLE_OIDC_SECRET")) -}}
{{- fail (printf "%s.env names %s: values are no place for secrets, so name an existing one." $of $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
