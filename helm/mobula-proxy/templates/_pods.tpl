{{/* The pods of gateway and minter. */}}

{{/* The volumes of a part's pods, as a YAML list; takes root, part and role. */}}
{{- define "mobula-proxy.volumes" -}}
{{- $values := .root.Values -}}
- name: config
  configMap:
    name: {{ include "mobula-proxy.partName" . }}
{{- if ne .role "member" }}
{{ include "mobula-proxy.secretVolume" (dict "name" "api-key" "secret" (include "mobula-proxy.apiKeySecretName" .root) "key" $values.apiKey.existingSecret.key "path" "api-key") }}
{{- end }}
{{- with include "mobula-proxy.storeSecretName" .root }}
{{ include "mobula-proxy.secretVolume" (dict "name" "store-secret" "secret" . "key" $values.store.secret.existingSecret.key "path" "store-secret") }}
{{- end }}
{{- if eq .part "gateway" }}
{{- with $values.clients.existingSecret }}
{{- if .name }}
{{ include "mobula-proxy.secretVolume" (dict "name" "clients" "secret" .name "key" .key "path" "clients.yaml") }}
{{- end }}
{{- end }}
{{- with $values.tls }}
{{- if .existingSecret }}
- name: tls
  secret:
    secretName: {{ .existingSecret | quote }}
    defaultMode: 0440
{{- if .clientCa.existingSecret }}
{{ include "mobula-proxy.secretVolume" (dict "name" "client-ca" "secret" .clientCa.existingSecret "key" .clientCa.key "path" "ca.crt") }}
{{- end }}
{{- end }}
{{- end }}
{{- if $values.listeners.forward.enabled }}
{{ include "mobula-proxy.secretVolume" (dict "name" "ca-key" "secret" $values.ca.existingSecret.name "key" $values.ca.existingSecret.key "path" "ca-key.pem") }}
- name: state
  emptyDir:
    medium: Memory
    sizeLimit: 4Mi
{{- end }}
{{- if $values.tokenReview.enabled }}
- name: service-account
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
{{- end }}
{{- end }}
{{- with $values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where the proxy's container has them, as a YAML list; takes root, part and role. */}}
{{- define "mobula-proxy.mounts" -}}
{{- $values := .root.Values -}}
{{- $paths := dict "config" "/etc/mobula-proxy" -}}
{{- if ne .role "member" -}}
  {{- $_ := set $paths "api-key" "/run/secrets/mobula" -}}
{{- end -}}
{{- if include "mobula-proxy.storeSecretName" .root -}}
  {{- $_ := set $paths "store-secret" "/run/secrets/mobula-store" -}}
{{- end -}}
{{- if eq .part "gateway" -}}
  {{- if $values.clients.existingSecret.name -}}
    {{- $_ := set $paths "clients" "/run/secrets/mobula-clients" -}}
  {{- end -}}
  {{- if $values.tls.existingSecret -}}
    {{- $_ := set $paths "tls" "/run/secrets/mobula-tls" -}}
    {{- if $values.tls.clientCa.existingSecret -}}
      {{- $_ := set $paths "client-ca" "/run/secrets/mobula-client-ca" -}}
    {{- end -}}
  {{- end -}}
  {{- if $values.tokenReview.enabled -}}
    {{- $_ := set $paths "service-account" "/var/run/secrets/kubernetes.io/serviceaccount" -}}
  {{- end -}}
{{- end -}}
{{- $mounts := list -}}
{{- range $name, $path := $paths -}}
  {{- $mounts = append $mounts (dict "name" $name "mountPath" $path "readOnly" true) -}}
{{- end -}}
{{- if and (eq .part "gateway") $values.listeners.forward.enabled -}}
  {{- $mounts = append $mounts (dict "name" "state" "mountPath" "/var/lib/mobula-proxy") -}}
{{- end -}}
{{- concat $mounts $values.extraVolumeMounts | toYaml -}}
{{- end -}}

{{/* The template of a part's pods; takes root, part and role. */}}
{{- define "mobula-proxy.podTemplate" -}}
{{- $values := .root.Values -}}
{{- $ports := list -}}
{{- $preStop := 0 -}}
{{- if eq .part "gateway" -}}
  {{- $ports = include "mobula-proxy.ports" .root | fromYamlArray -}}
  {{- $preStop = $values.preStopSeconds -}}
{{- end -}}
{{- $env := concat (include "mobula-proxy.storeEnv" .root | fromYamlArray) $values.extraEnv -}}
{{- $mounts := include "mobula-proxy.mounts" . | fromYamlArray -}}
metadata:
  labels:
    {{- mergeOverwrite (deepCopy $values.podLabels) (include "mobula-proxy.labels" . | fromYaml) | toYaml | nindent 4 }}
  annotations:
    # What is read once, at start: a change rolls the pods.
    checksum/config: {{ include "mobula-proxy.config" . | sha256sum }}
    {{- with $values.store.secret.value }}
    checksum/store-secret: {{ . | sha256sum }}
    {{- end }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "mobula-proxy.partName" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "mobula-proxy.gracePeriod" (dict "root" .root "preStop" $preStop) }}
  securityContext:
    {{- include "mobula-proxy.podSecurityContext" .root | nindent 4 }}
  {{- with $values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . | quote }}
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
  {{- if $values.topologySpread.enabled }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: {{ $values.topologySpread.whenUnsatisfiable }}
      labelSelector:
        matchLabels:
          {{- include "mobula-proxy.selectorLabels" $ | nindent 10 }}
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
  {{- if and (eq .part "gateway") $values.listeners.forward.enabled }}
  initContainers:
    # The proxy takes the key of its CA only from a file that is its own, and nobody else's to read.
    - name: ca
      image: {{ include "mobula-proxy.image" .root | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      command: [install, -D, -m, "0600", /run/secrets/mobula-ca/ca-key.pem, /var/lib/mobula-proxy/ca/ca-key.pem]
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      securityContext:
        {{- include "mobula-proxy.securityContext" .root | nindent 8 }}
      volumeMounts:
        - name: ca-key
          mountPath: /run/secrets/mobula-ca
          readOnly: true
        - name: state
          mountPath: /var/lib/mobula-proxy
  {{- end }}
  containers:
    - {{ include "mobula-proxy.container" (dict "root" .root "ports" $ports "env" $env "mounts" $mounts "preStop" $preStop) | nindent 6 | trim }}
  volumes:
    {{- include "mobula-proxy.volumes" . | nindent 4 }}
{{- end -}}

{{/* What a part has beside its Deployment: its settings and its account; takes root, part, role. */}}
{{- define "mobula-proxy.company" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "mobula-proxy.partName" . }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "mobula-proxy.labels" . | nindent 4 }}
data:
  config.yaml: |
    {{- include "mobula-proxy.config" . | nindent 4 }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "mobula-proxy.partName" . }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "mobula-proxy.labels" . | nindent 4 }}
  {{- with .root.Values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end -}}
