{{/* The proxy's container, which gateways, minters and sidecars have in common. */}}

{{/* Of the pod, within the restricted Pod Security Standard. */}}
{{- define "mobula-proxy.podSecurityContext" -}}
runAsNonRoot: true
{{- with get .Values.runAs "user" }}
runAsUser: {{ . | int64 }}
{{- end }}
{{- with get .Values.runAs "group" }}
runAsGroup: {{ . | int64 }}
{{- end }}
{{- with get .Values.runAs "fsGroup" }}
fsGroup: {{ . | int64 }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Of a container. It asks for nothing of its pod, which may be another's. */}}
{{- define "mobula-proxy.securityContext" -}}
runAsNonRoot: true
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/*
The container itself. Takes
  root       the chart's root context
  name       of the container, mobula-proxy when left out
  sidecar    whether it is a native sidecar: an init container that goes on, and that the app waits
             for until the first token has arrived
  ports      of its listeners, a list of name and port
  adminPort  9090 when left out
  preStop    seconds between the decision to end it and the signal, 0 when left out
  env        a list, beside its own
  mounts     a list of volume mounts, one of them with /etc/mobula-proxy/config.yaml
  resources  those of the values when left out
*/}}
{{- define "mobula-proxy.container" -}}
{{- $sidecar := get . "sidecar" | default false -}}
name: {{ get . "name" | default "mobula-proxy" }}
image: {{ include "mobula-proxy.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: [serve, --config, /etc/mobula-proxy/config.yaml]
{{- if $sidecar }}
restartPolicy: Always
{{- end }}
{{- with get . "env" }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  {{- range get . "ports" }}
  - name: {{ .name }}
    containerPort: {{ .port | int }}
    protocol: TCP
  {{- end }}
  - name: admin
    containerPort: {{ get . "adminPort" | default 9090 | int }}
    protocol: TCP
startupProbe:
  httpGet:
    # Without a first token the app of a sidecar could do nothing; a gateway is only not ready then,
    # and starting it anew would not help.
    path: {{ $sidecar | ternary "/startupz" "/livez" }}
    port: admin
  periodSeconds: 1
  failureThreshold: {{ $sidecar | ternary 300 30 }}
readinessProbe:
  httpGet:
    path: /readyz
    port: admin
  periodSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet:
    path: /livez
    port: admin
  periodSeconds: 10
  timeoutSeconds: 5
{{- with get . "preStop" }}
lifecycle:
  preStop:
    # Until every node has taken the pod from the Service's endpoints.
    sleep:
      seconds: {{ . | int }}
{{- end }}
resources:
  {{- toYaml (get . "resources" | default .root.Values.resources) | nindent 2 }}
securityContext:
  {{- include "mobula-proxy.securityContext" .root | nindent 2 }}
volumeMounts:
  {{- toYaml .mounts | nindent 2 }}
{{- end -}}
