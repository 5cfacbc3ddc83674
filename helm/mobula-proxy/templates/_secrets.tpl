{{/* Where secrets are. Each of these names is empty where there is none. */}}

{{/* The name of the Secret of a credential: one that exists, else ours; takes root, from, part. */}}
{{- define "mobula-proxy.secretName" -}}
{{- if .from.existingSecret.name -}}
{{- .from.existingSecret.name -}}
{{- else if or .from.externalSecret.store .from.value -}}
{{- include "mobula-proxy.partName" (dict "root" .root "part" .part) -}}
{{- end -}}
{{- end -}}

{{- define "mobula-proxy.apiKeySecretName" -}}
{{- include "mobula-proxy.secretName" (dict "root" . "from" .Values.apiKey "part" "api-key") -}}
{{- end -}}

{{- define "mobula-proxy.storeSecretName" -}}
{{- include "mobula-proxy.secretName" (dict "root" . "from" .Values.store.secret "part" "store-secret") -}}
{{- end -}}

{{/* Objects for a credential that exists nowhere yet; takes root, from, part. */}}
{{- define "mobula-proxy.secret" -}}
{{- $key := .from.existingSecret.key -}}
{{- if .from.existingSecret.name -}}
{{- else if .from.externalSecret.store -}}
apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata:
  name: {{ include "mobula-proxy.partName" . }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "mobula-proxy.labels" . | nindent 4 }}
spec:
  refreshInterval: {{ .from.externalSecret.refreshInterval }}
  secretStoreRef:
    name: {{ .from.externalSecret.store | quote }}
    kind: {{ .from.externalSecret.kind }}
  target:
    name: {{ include "mobula-proxy.partName" . }}
    creationPolicy: Owner
  data:
    - secretKey: {{ $key | quote }}
      remoteRef:
        key: {{ .from.externalSecret.remoteKey | quote }}
        {{- with .from.externalSecret.property }}
        property: {{ . | quote }}
        {{- end }}
{{- else if .from.value -}}
apiVersion: v1
kind: Secret
metadata:
  name: {{ include "mobula-proxy.partName" . }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "mobula-proxy.labels" . | nindent 4 }}
type: Opaque
stringData:
  {{ $key | quote }}: {{ .from.value | quote }}
{{- end -}}
{{- end -}}

{{/* A volume with one key of a Secret, readable by the pod's group; takes name, secret, key, path. */}}
{{- define "mobula-proxy.secretVolume" -}}
- name: {{ .name }}
  secret:
    secretName: {{ .secret | quote }}
    defaultMode: 0440
    items:
      - key: {{ .key | quote }}
        path: {{ .path }}
{{- end -}}

{{/* Where the store is, for the environment: it may hold a password. A YAML list. */}}
{{- define "mobula-proxy.storeEnv" -}}
{{- with .Values.store.existingSecret -}}
{{- if .name -}}
- name: MOBULA_PROXY__STORE__URL
  valueFrom:
    secretKeyRef:
      name: {{ .name | quote }}
      key: {{ .key | quote }}
{{- end -}}
{{- end -}}
{{- end -}}
