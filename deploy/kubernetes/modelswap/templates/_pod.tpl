{{/* What the pods of processes and jobs have in common: they may do nothing that modelswap does not need. */}}

{{/* The pod, without its containers: (dict "root" $ "account" "…" "secrets" …). */}}
{{- define "modelswap.pod" -}}
serviceAccountName: {{ .account }}
automountServiceAccountToken: false
# Kubernetes would set MODELSWAP_STATE_PORT=tcp://… for the Service modelswap-state, and that is a setting of ours.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  {{- with .root.Values.runAsUser }}
  runAsUser: {{ include "modelswap.text" . }}
  runAsGroup: {{ include "modelswap.text" . }}
  # Of the files with the secrets.
  fsGroup: {{ include "modelswap.text" . }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: tmp
    emptyDir:
      sizeLimit: 64Mi
  - name: secrets
    projected:
      defaultMode: 0440
      sources:
        {{- range $setting, $from := .secrets }}
        - secret:
            name: {{ $from.name }}
            items:
              - key: {{ $from.key }}
                path: {{ $setting }}
        {{- end }}
  {{- range .root.Values.certificates }}
  - name: {{ .secret }}
    secret:
      secretName: {{ .secret }}
      defaultMode: 0440
      items:
        {{- range .keys }}
        - key: {{ . }}
          path: {{ . }}
        {{- end }}
  {{- end }}
{{- end }}

{{/*
The container: (dict "root" $ "secrets" … "settings" …), where settings are those that no ConfigMap has.
Secrets come as files: they are in no environment, which other tools print and keep.
*/}}
{{- define "modelswap.container" -}}
image: {{ include "modelswap.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
env:
  {{- range $setting, $from := .secrets }}
  - name: {{ $setting }}_FILE
    value: /run/modelswap/{{ $setting }}
  {{- end }}
  {{- range $setting, $value := .settings }}
  - name: {{ $setting }}
    value: {{ include "modelswap.text" $value | quote }}
  {{- end }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  - name: secrets
    mountPath: /run/modelswap
    readOnly: true
  {{- range .root.Values.certificates }}
  - name: {{ .secret }}
    mountPath: /etc/modelswap/certificates/{{ .secret }}
    readOnly: true
  {{- end }}
{{- end }}
