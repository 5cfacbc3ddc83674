{{/* Names, labels, and what else all objects have in common. */}}

{{- define "mobula-proxy.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The release's name, and the chart's unless it is in there already. */}}
{{- define "mobula-proxy.fullname" -}}
{{- $name := include "mobula-proxy.name" . -}}
{{- $both := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $both | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of one part; takes root and part. It stays within the 63 characters of a label. */}}
{{- define "mobula-proxy.partName" -}}
{{- $whole := include "mobula-proxy.fullname" .root -}}
{{- printf "%s-%s" ($whole | trunc (sub 62 (len .part) | int) | trimSuffix "-") .part -}}
{{- end -}}

{{/* The job under which Prometheus has the series of a part; takes root and part. */}}
{{- define "mobula-proxy.job" -}}
{{- printf "%s/%s" .root.Release.Namespace (include "mobula-proxy.partName" .) -}}
{{- end -}}

{{/* What selects the pods of a part; takes root and part. It must never change. */}}
{{- define "mobula-proxy.selectorLabels" -}}
app.kubernetes.io/name: {{ include "mobula-proxy.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{/* All labels of a part's objects; takes root and part. */}}
{{- define "mobula-proxy.labels" -}}
{{ include "mobula-proxy.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "mobula-proxy.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) }}
{{- end -}}
{{- end -}}

{{/* The labels of pods that may use a gateway. */}}
{{- define "mobula-proxy.clientLabels" -}}
{{- .Values.networkPolicy.clients.podLabels | default (dict "mobula-proxy/client" "true") | toYaml -}}
{{- end -}}

{{/* Not empty if there are pods of our own. */}}
{{- define "mobula-proxy.hasProxies" -}}
{{- or (eq .Values.mode "gateway") .Values.minter.enabled | ternary "yes" "" -}}
{{- end -}}

{{/* Not empty if there may be sidecars in other pods. */}}
{{- define "mobula-proxy.hasSidecars" -}}
{{- or (eq .Values.mode "sidecar") .Values.injection.enabled | ternary "yes" "" -}}
{{- end -}}
