{{/* What the policies of injection.yaml are made with. */}}

{{/* Beta until Kubernetes 1.36; `helm template` knows the version only. */}}
{{- define "mobula-proxy.mutationApi" -}}
{{- $apis := .Capabilities.APIVersions -}}
{{- $stable := semverCompare ">=1.36-0" .Capabilities.KubeVersion.Version -}}
{{- if $apis.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" -}}
  {{- $stable = true -}}
{{- else if $apis.Has "admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicy" -}}
  {{- $stable = false -}}
{{- end -}}
admissionregistration.k8s.io/{{ $stable | ternary "v1" "v1beta1" }}
{{- end -}}

{{/*
A value as CEL. JSON is nearly that, but for one thing: the API server takes no list and no map whose
values are of several types, so all but texts among texts are `dyn`. A text that begins with `cel:`
is an expression. Takes value and indent.
*/}}
{{- define "mobula-proxy.cel" -}}
{{- $value := .value -}}
{{- if not (or (kindIs "map" $value) (kindIs "slice" $value)) -}}
  {{- hasPrefix "cel:" (toString $value) | ternary (toString $value | trimPrefix "cel:") (toJson $value) -}}
{{- else if include "mobula-proxy.cel.texts" $value -}}
  {{- toJson $value -}}
{{- else -}}
  {{- $indent := add .indent 2 | int -}}
  {{- $items := list -}}
  {{- range $name, $each := $value -}}
    {{- $item := printf "dyn(%s)" (include "mobula-proxy.cel" (dict "value" $each "indent" $indent)) -}}
    {{- $items = append $items (kindIs "map" $value | ternary (printf "%s: %s" (toJson $name) $item) $item) -}}
  {{- end -}}
  {{- $break := printf "\n%s" (repeat $indent " ") -}}
  {{- $whole := printf "%s%s\n%s" $break (join (printf ",%s" $break) $items) (repeat (int .indent) " ") -}}
  {{- printf (kindIs "map" $value | ternary "{%s}" "[%s]") $whole -}}
{{- end -}}
{{- end -}}

{{/* Not empty if all values of a map or a list are texts, and none is an expression. */}}
{{- define "mobula-proxy.cel.texts" -}}
{{- $texts := true -}}
{{- range . -}}
  {{- if or (not (kindIs "string" .)) (hasPrefix "cel:" (toString .)) -}}
    {{- $texts = false -}}
  {{- end -}}
{{- end -}}
{{- $texts | ternary "yes" "" -}}
{{- end -}}
