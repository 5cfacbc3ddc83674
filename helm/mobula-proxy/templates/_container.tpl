{{/* The container of a proxy that is a pod's own: a gateway's, or a minter's. */}}

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

{{/* The container itself; takes root, ports, env, mounts, and preStop seconds, of which 0 are none. */}}
{{- define "mobula-proxy.container" -}}
name: mobula-proxy
image: {{ include "mobula-proxy.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: [serve, --config, /etc/mobula-proxy/config.yaml]
{{- with .env }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  {{- range .ports }}
  - name: {{ .name }}
    containerPort: {{ .port | int }}
    protocol: TCP
  {{- end }}
  - name: admin
    containerPort: 9090
    protocol: TCP
startupProbe:
  httpGet:
    # And not /startupz, which wants a token: without one it is not ready, and does not start anew.
    path: /livez
    port: admin
  periodSeconds: 1
  failureThreshold: 30
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
{{- with .preStop }}
lifecycle:
  preStop:
    # Until every node has taken the pod from the Service's endpoints.
    sleep:
      seconds: {{ . | int }}
{{- end }}
resources:
  {{- toYaml .root.Values.resources | nindent 2 }}
securityContext:
  {{- include "mobula-proxy.securityContext" .root | nindent 2 }}
volumeMounts:
  {{- toYaml .mounts | nindent 2 }}
{{- end -}}
