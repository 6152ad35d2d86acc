{{/*
Lays `.over` over `.under`, in place: maps key by key, all else replaced. Sprig's merge keeps what is under where false,
0 or nothing is laid over it.
*/}}
{{- define "holdfast.lay" -}}
{{- $under := .under -}}
{{- range $key, $value := .over -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $under $key)) -}}
{{- include "holdfast.lay" (dict "under" (get $under $key) "over" $value) -}}
{{- else -}}
{{- $_ := set $under $key (deepCopy (dict "value" $value)).value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Puts the parts of the suite into `.into.parts`, all of one form: what every template ranges over.
A part has `name`, `service` (what it serves), `pool` (of runners), `port`, `values` (its own over the defaults), `image`.
*/}}
{{- define "holdfast.parts" -}}
{{- $root := .root -}}
{{- $parts := list -}}
{{- $fullname := include "holdfast.fullname" $root -}}
{{- range $service := list "invoker" "checkpoint" "approval" "dispatcher" "console" -}}
{{- $values := deepCopy $root.Values.defaults -}}
{{- include "holdfast.lay" (dict "under" $values "over" (get $root.Values $service)) -}}
{{- if or (not (has $service (list "dispatcher" "console"))) $values.enabled -}}
{{- $parts = append $parts (dict "name" (printf "%s-%s" $fullname $service) "service" $service "pool" "" "values" $values) -}}
{{- end -}}
{{- end -}}
{{- range $pool, $own := $root.Values.runner.pools -}}
{{- $values := deepCopy $root.Values.defaults -}}
{{- include "holdfast.lay" (dict "under" $values "over" (omit $root.Values.runner "pools")) -}}
{{- include "holdfast.lay" (dict "under" $values "over" $own) -}}
{{- $parts = append $parts (dict "name" (printf "%s-runner-%s" $fullname $pool) "service" "runner" "pool" $pool "values" $values) -}}
{{- end -}}
{{- range $part := $parts -}}
{{- $image := deepCopy $root.Values.image -}}
{{- include "holdfast.image.own" (dict "image" $image "own" $part.values.image) -}}
{{- $_ := set $part "image" $image -}}
{{- $_ := set $part "port" (include "holdfast.port" $part.service | int) -}}
{{- end -}}
{{- include "holdfast.refusals" (dict "root" $root "parts" $parts) -}}
{{- $_ := set .into "parts" $parts -}}
{{- end -}}

{{/* Lays a part's own image over the common one, in place; a digest belongs to the image that it was said of. */}}
{{- define "holdfast.image.own" -}}
{{- if or .own.tag .own.repository -}}
{{- $_ := set .image "digest" "" -}}
{{- end -}}
{{- if and .own.repository (not .own.tag) -}}
{{- $_ := set .image "tag" "" -}}
{{- end -}}
{{- include "holdfast.lay" (dict "under" .image "over" .own) -}}
{{- end -}}
