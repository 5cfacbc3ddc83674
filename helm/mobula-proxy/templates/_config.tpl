{{/* What the proxies are set to, and how long they take to end. */}}

{{/*
The settings of a part, as YAML; takes root, part and role. What `config` says is merged over what is
decided here.
*/}}
{{- define "mobula-proxy.config" -}}
{{- $values := .root.Values -}}
{{- $mints := ne .role "member" -}}
{{- $decided := dict
      "role" .role
      "admin" (dict "bind" (printf "%s:9090" $values.bindAddress))
      "log" (dict "format" "json")
      "store" (dict) -}}
{{- if $mints -}}
  {{- $_ := set $decided "api_key" (dict "file" "/run/secrets/mobula/api-key") -}}
{{- end -}}
{{- if $values.store.url -}}
  {{- $_ := set $decided.store "url" $values.store.url -}}
{{- end -}}
{{- if include "mobula-proxy.storeSecretName" .root -}}
  {{- $_ := set $decided.store "secret" (dict "file" "/run/secrets/mobula-store/store-secret") -}}
{{- end -}}
{{- if eq .part "gateway" -}}
  {{- $_ := set $decided "listeners" (include "mobula-proxy.listeners" .root | fromYamlArray) -}}
  {{- if $values.clients.existingSecret.name -}}
    {{- $_ := set $decided "clients_file" "/run/secrets/mobula-clients/clients.yaml" -}}
  {{- end -}}
  {{- if $values.tokenReview.enabled -}}
    {{- $_ := set $decided "service_accounts" (dict "audience" $values.tokenReview.audience) -}}
  {{- end -}}
  {{- if $values.listeners.forward.enabled -}}
    {{- $_ := set $decided "ca" (dict "dir" "/var/lib/mobula-proxy/ca") -}}
  {{- end -}}
{{- end -}}
{{- $config := deepCopy $values.config -}}
{{- if ne .part "gateway" -}}
  {{- $config = omit $config "clients" "service_accounts" "ca" -}}
{{- end -}}
{{- mergeOverwrite $decided (omit $config "upstreams") | toYaml }}
{{- if get $config "upstreams" }}
# In order: the first one is the default, and mints.
upstreams:
  {{- range include "mobula-proxy.sidecar.upstreams" .root | fromYamlArray }}
  {{ .name | quote }}: {{ .settings }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* The gateway's listeners, as a YAML list. */}}
{{- define "mobula-proxy.listeners" -}}
{{- $values := .Values -}}
{{- $common := dict "authenticate" true -}}
{{- if not $values.listeners.authenticate -}}
  {{- $common = dict "insecure" true -}}
{{- end -}}
{{- $listeners := list -}}
{{- with $values.listeners.reverse -}}
  {{- if .enabled -}}
    {{- $bind := printf "%s:%d" $values.bindAddress (int .port) -}}
    {{- $listener := merge (dict "bind" $bind "mode" "reverse") $common -}}
    {{- with .upstream -}}
      {{- $_ := set $listener "upstream" . -}}
    {{- end -}}
    {{- with $values.tls -}}
      {{- if .existingSecret -}}
        {{- $tls := dict "certificate_file" "/run/secrets/mobula-tls/tls.crt" "key_file" "/run/secrets/mobula-tls/tls.key" -}}
        {{- if .clientCa.existingSecret -}}
          {{- $_ := set $tls "client_ca_file" "/run/secrets/mobula-client-ca/ca.crt" -}}
        {{- end -}}
        {{- $_ := set $listener "tls" $tls -}}
      {{- end -}}
    {{- end -}}
    {{- $listeners = append $listeners $listener -}}
  {{- end -}}
{{- end -}}
{{- with $values.listeners.forward -}}
  {{- if .enabled -}}
    {{- $bind := printf "%s:%d" $values.bindAddress (int .port) -}}
    {{- $listener := merge (dict "bind" $bind "mode" "forward" "other_hosts" .otherHosts "private_hosts" .privateHosts) $common -}}
    {{- $listeners = append $listeners $listener -}}
  {{- end -}}
{{- end -}}
{{- toYaml $listeners -}}
{{- end -}}

{{/* The listeners' ports, as a YAML list of name and port. */}}
{{- define "mobula-proxy.ports" -}}
{{- range list "reverse" "forward" -}}
{{- $listener := get $.Values.listeners . -}}
{{- if $listener.enabled }}
- name: {{ . }}
  port: {{ $listener.port | int }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Seconds of a duration such as 1m30s, or of a number, rounded up. */}}
{{- define "mobula-proxy.seconds" -}}
{{- $units := dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0 -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "[0-9.]+(ms|[smhd])?" (toString .) -1 -}}
  {{- $unit := regexFind "[a-z]+" . | default "s" -}}
  {{- $sum = addf $sum (mulf (trimSuffix $unit . | float64) (get $units $unit)) -}}
{{- end -}}
{{- ceil $sum | int -}}
{{- end -}}

{{/* One setting of `config`, or what it is when left out; takes root, section, name, usual. */}}
{{- define "mobula-proxy.setting" -}}
{{- $section := get .root.Values.config .section | default dict -}}
{{- hasKey $section .name | ternary (get $section .name) .usual -}}
{{- end -}}

{{/* How long a pod may take to end: preStop, drain, revoke, two seconds for the rest; takes root, preStop. */}}
{{- define "mobula-proxy.gracePeriod" -}}
{{- $of := dict "root" .root "section" "shutdown" -}}
{{- $drain := include "mobula-proxy.setting" (merge (dict "name" "drain" "usual" "20s") $of) -}}
{{- $revoke := include "mobula-proxy.setting" (merge (dict "name" "revoke" "usual" "3s") $of) -}}
{{- add .preStop (include "mobula-proxy.seconds" $drain) (include "mobula-proxy.seconds" $revoke) 2 -}}
{{- end -}}
