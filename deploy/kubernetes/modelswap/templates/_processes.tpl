{{/* What differs between the processes. The rest follows from the values, such as the secrets that each one is given. */}}

{{/* Where each one listens: the defaults of its settings. */}}
{{- define "modelswap.ports" -}}
receiver: 8080
extractor: 8082
state: 8081
ops: 8083
notifier: 8084
{{- end }}

{{/* Whom a process asks over HTTP, and the setting with the address. */}}
{{- define "modelswap.asks" -}}
ops:
  MODELSWAP_API_URL: state
  MODELSWAP_EXTRACTOR_URL: extractor
  MODELSWAP_NOTIFIER_URL: notifier
  MODELSWAP_RECEIVER_URL: receiver
{{- end }}

{{/*
Those with clients outside of modelswap: Replicate, or the product's services. A pod that ends waits before it stops to
listen, because these still find its address for a moment.
*/}}
{{- define "modelswap.outsideClients" -}}
[receiver, state, notifier]
{{- end }}

{{/* The values of a process, completed by those of all: (list $ "receiver"). */}}
{{- define "modelswap.values" -}}
{{- mustMergeOverwrite (deepCopy (first .).Values.defaults) (deepCopy (index (first .).Values (last .))) | toYaml -}}
{{- end }}

{{/* Where Replicate reaches the receiver. */}}
{{- define "modelswap.publicUrl" -}}
{{- if .Values.publicUrl -}}
{{- .Values.publicUrl -}}
{{- else if .Values.ingress.enabled -}}
{{- printf "https://%s" .Values.ingress.host -}}
{{- else -}}
{{- fail "set publicUrl: the https:// address under which Replicate reaches the receiver" -}}
{{- end -}}
{{- end }}

{{/* The variables of a process that are no secrets: (list $ "receiver"). */}}
{{- define "modelswap.settings" -}}
{{- $root := first . -}}
{{- $name := last . -}}
{{- $own := index $root.Values $name -}}
{{- $settings := dict "MODELSWAP_DRAIN_SECONDS" $root.Values.drainSeconds "MODELSWAP_DECLARE_TOPOLOGY" (eq $root.Values.topology.by "processes") -}}
{{- if hasKey $own.secrets "MODELSWAP_REPLICATE_API_TOKEN" -}}
{{- $_ := set $settings "MODELSWAP_REPLICATE_API_URL" $root.Values.replicateUrl -}}
{{- end -}}
{{- range $setting, $asked := dig $name (dict) (include "modelswap.asks" $root | fromYaml) -}}
{{- $port := index (include "modelswap.ports" $root | fromYaml) $asked -}}
{{- $_ := set $settings $setting (printf "http://%s:%v" (include "modelswap.name" (list $root $asked)) $port) -}}
{{- end -}}
{{- if eq $name "state" -}}
{{- $_ := set $settings "MODELSWAP_PUBLIC_URL" (include "modelswap.publicUrl" $root) -}}
{{- end -}}
{{- $settings = mustMergeOverwrite $settings (deepCopy $root.Values.env) (deepCopy $root.Values.settings) (deepCopy $own.settings) -}}
{{- range $setting := keys $settings | sortAlpha }}
{{ $setting }}: {{ include "modelswap.text" (index $settings $setting) | quote }}
{{- end }}
{{- end }}
