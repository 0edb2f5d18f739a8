{{/* Whom a pod may ask. It follows from what the pod is given: without an address of Postgres there is no way to it. */}}

{{/* Every address on the public internet, and no other: neither this cluster's, nor a cloud's metadata. */}}
{{- define "modelswap.internet" -}}
- ipBlock:
    cidr: 0.0.0.0/0
    except:
      - 0.0.0.0/8
      - 10.0.0.0/8
      - 100.64.0.0/10
      - 127.0.0.0/8
      - 169.254.0.0/16
      - 172.16.0.0/12
      - 192.0.0.0/24
      - 192.168.0.0/16
      - 198.18.0.0/15
      - 224.0.0.0/4
      - 240.0.0.0/4
# Of IPv6 only what is assigned to the public internet.
- ipBlock:
    cidr: 2000::/3
    except:
      - 2001::/23
      - 2002::/16
{{- end }}

{{/* (dict "root" $ "name" "receiver" "secrets" …) */}}
{{- define "modelswap.egress" -}}
{{- $policy := .root.Values.networkPolicy -}}
- to:
    {{- toYaml $policy.dns.peers | nindent 4 }}
  ports:
    - port: {{ $policy.dns.port }}
      protocol: UDP
    - port: {{ $policy.dns.port }}
      protocol: TCP
{{- if hasKey .secrets "MODELSWAP_AMQP_URL" }}
- to:
    {{- toYaml $policy.rabbitmq.peers | nindent 4 }}
  ports:
    - port: {{ $policy.rabbitmq.port }}
    {{- if hasKey .secrets "MODELSWAP_MANAGEMENT_URL" }}
    - port: {{ $policy.rabbitmq.managementPort }}
    {{- end }}
{{- end }}
{{- if hasKey .secrets "MODELSWAP_DATABASE_URL" }}
- to:
    {{- toYaml $policy.postgres.peers | nindent 4 }}
  ports:
    - port: {{ $policy.postgres.port }}
{{- end }}
{{- if hasKey .secrets "MODELSWAP_REPLICATE_API_TOKEN" }}
- to:
    {{- $policy.replicate.peers | default (include "modelswap.internet" . | fromYamlArray) | toYaml | nindent 4 }}
  ports:
    - port: {{ $policy.replicate.port }}
{{- end }}
{{- if eq .name "notifier" }}
# Endpoints of webhooks: HTTPS, on its own port or on one that no other service has.
- to:
    {{- include "modelswap.internet" . | nindent 4 }}
  ports:
    - port: 443
    - port: 1024
      endPort: 65535
{{- end }}
{{- if hasKey .root.Values.env "OTEL_EXPORTER_OTLP_ENDPOINT" }}
- to:
    {{- toYaml $policy.traces.peers | nindent 4 }}
  ports:
    - port: {{ $policy.traces.port }}
{{- end }}
{{- range $asked := dig .name (dict) (include "modelswap.asks" .root | fromYaml) | values | sortAlpha }}
- to:
    - podSelector:
        matchLabels:
          {{- include "modelswap.selector" (list $.root $asked) | nindent 10 }}
  ports:
    - port: {{ index (include "modelswap.ports" $.root | fromYaml) $asked }}
{{- end }}
{{- with $policy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}
