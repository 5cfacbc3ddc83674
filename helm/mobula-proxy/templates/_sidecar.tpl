{{/*
A proxy beside each app, in any pod. One truth for those who write pods, in any chart that depends
on this one, and for the policy that changes pods as they are created (injection.yaml).

All templates take
  root       the context of this chart; from another chart: index .Subcharts "mobula-proxy"
  mode       reverse, forward or tls; reverse when left out
  upstreams  a list of Mobula's hosts; all of them when left out

The policy hands in expressions for some texts (image, hosts, upstreamsText, secretName, storeUrl):
they begin with `cel:`.
*/}}

{{/* The container: a native sidecar, which the pod's other init containers and its apps wait for. */}}
{{- define "mobula-proxy.sidecar" -}}
{{- get (include "mobula-proxy.sidecar.parts" . | fromYaml) "container" | toYaml -}}
{{- end -}}

{{/* The volumes that the pod needs. */}}
{{- define "mobula-proxy.sidecar.volumes" -}}
{{- get (include "mobula-proxy.sidecar.parts" . | fromYaml) "volumes" | toYaml -}}
{{- end -}}

{{/* The variables of each container that calls Mobula. */}}
{{- define "mobula-proxy.sidecar.env" -}}
{{- get (include "mobula-proxy.sidecar.parts" . | fromYaml) "env" | toYaml -}}
{{- end -}}

{{/* The volume mounts of each container that calls Mobula; none in reverse mode. */}}
{{- define "mobula-proxy.sidecar.mounts" -}}
{{- get (include "mobula-proxy.sidecar.parts" . | fromYaml) "mounts" | toYaml -}}
{{- end -}}

{{/* In tls mode: names that lead to the sidecar. */}}
{{- define "mobula-proxy.sidecar.hostAliases" -}}
{{- get (include "mobula-proxy.sidecar.parts" . | fromYaml) "hostAliases" | toYaml -}}
{{- end -}}

{{/* In tls mode: what lets the sidecar, which is nobody in particular, bind port 443. */}}
{{- define "mobula-proxy.sidecar.sysctls" -}}
{{- get (include "mobula-proxy.sidecar.parts" . | fromYaml) "sysctls" | toYaml -}}
{{- end -}}

{{/* Mobula's hosts: those that the proxy has for upstreams when none are named. */}}
{{- define "mobula-proxy.sidecar.hosts" -}}
- api.mobula.io
- api-2.mobula.io
- demo-api.mobula.io
- graphql.mobula.io
- production-api.mobula.io
- production-feed.mobula.io
- pulse-v2-api.mobula.io
- stream-evm-prod.mobula.io
- stream-sol-prod.mobula.io
{{- end -}}

{{/* All that there is to add to a pod. */}}
{{- define "mobula-proxy.sidecar.parts" -}}
{{- $root := .root -}}
{{- $mode := get . "mode" | default "reverse" -}}
{{- if not (has $mode (list "reverse" "forward" "tls")) -}}
  {{- fail (printf "mode: must be reverse, forward or tls, not %s" $mode) -}}
{{- end -}}
{{- $hosts := get . "hosts" | default (get . "upstreams") -}}
{{- if not $hosts -}}
  {{- $hosts = list -}}
  {{- range include "mobula-proxy.sidecar.upstreams" $root | fromYamlArray -}}
    {{- $hosts = append $hosts .name -}}
  {{- end -}}
{{- end -}}
{{- $variables := include "mobula-proxy.sidecar.settings" (dict "root" $root "mode" $mode) | fromYaml -}}
{{- $upstreams := get . "upstreamsText" -}}
{{- if not $upstreams -}}
  {{- $upstreams = include "mobula-proxy.sidecar.upstreamsSetting" (dict "root" $root "hosts" $hosts) -}}
{{- end -}}
{{- $_ := set $variables "MOBULA_PROXY__UPSTREAMS" $upstreams -}}
{{- $secret := include "mobula-proxy.sidecar.secret" . | fromYaml -}}
{{- $public := include "mobula-proxy.sidecar.public" $root -}}
{{- $trusted := ne $mode "reverse" -}}
container:
  name: mobula-proxy
  image: {{ get . "image" | default (include "mobula-proxy.image" $root) | quote }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  args: [serve]
  restartPolicy: Always
  env:
    {{- range $name, $value := $variables }}
    - name: {{ $name }}
      value: {{ $value | quote }}
    {{- end }}
    {{- toYaml $secret.env | nindent 4 }}
  ports:
    - name: mobula-admin
      containerPort: {{ $root.Values.sidecar.adminPort | int }}
      protocol: TCP
  startupProbe:
    httpGet:
      path: /startupz
      port: mobula-admin
    periodSeconds: 1
    failureThreshold: 300
  livenessProbe:
    httpGet:
      path: /livez
      port: mobula-admin
    periodSeconds: 10
    timeoutSeconds: 5
  resources:
    {{- toYaml $root.Values.resources | nindent 4 }}
  securityContext:
    {{- with get $root.Values.runAs "user" }}
    runAsUser: {{ . | int64 }}
    {{- end }}
    {{- with get $root.Values.runAs "group" }}
    runAsGroup: {{ . | int64 }}
    {{- end }}
    {{- include "mobula-proxy.securityContext" $root | nindent 4 }}
  volumeMounts:
    {{- toYaml $secret.mounts | nindent 4 }}
    {{- if $trusted }}
    - name: mobula-proxy-private
      mountPath: /var/lib/mobula-proxy
    - name: mobula-proxy-public
      mountPath: {{ $public }}
    {{- end }}
volumes:
  {{- toYaml $secret.volumes | nindent 2 }}
  {{- if $trusted }}
  - name: mobula-proxy-private # for the key of the local CA: never on a disk, nor in an app
    emptyDir:
      medium: Memory
      sizeLimit: 1Mi
  - name: mobula-proxy-public
    emptyDir:
      sizeLimit: 16Mi
  {{- end }}
env:
  {{- include "mobula-proxy.sidecar.environment" (dict "root" $root "mode" $mode) | nindent 2 }}
{{- if $trusted }}
mounts:
  - name: mobula-proxy-public
    mountPath: {{ $public }}
    readOnly: true
{{- else }}
mounts: []
{{- end }}
{{- if eq $mode "tls" }}
hostAliases:
  - ip: 127.0.0.1
    hostnames: {{ $hosts | toJson }}
sysctls:
  - name: net.ipv4.ip_unprivileged_port_start
    value: "443"
{{- else }}
hostAliases: []
sysctls: []
{{- end }}
{{- end -}}

{{/* Where the sidecar leaves what apps trust it by. */}}
{{- define "mobula-proxy.sidecar.public" -}}
/run/mobula-proxy
{{- end -}}

{{/* Each upstream with its settings, as a YAML list of name and settings; the first is the default. */}}
{{- define "mobula-proxy.sidecar.upstreams" -}}
{{- $set := get .Values.config "upstreams" | default dict -}}
{{- $hosts := include "mobula-proxy.sidecar.hosts" . | fromYamlArray -}}
{{- range $host, $_ := $set -}}
  {{- $hosts = append $hosts $host -}}
{{- end -}}
{{- range uniq $hosts }}
{{- if or (not $set) (hasKey $set .) }}
- name: {{ . }}
  settings: {{ get $set . | default dict | toJson | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The setting for these upstreams; takes root and hosts. */}}
{{- define "mobula-proxy.sidecar.upstreamsSetting" -}}
{{- $known := dict -}}
{{- range include "mobula-proxy.sidecar.upstreams" .root | fromYamlArray -}}
  {{- $_ := set $known .name .settings -}}
{{- end -}}
{{- $entries := list -}}
{{- range .hosts -}}
  {{- if not (hasKey $known .) -}}
    {{- fail (printf "upstreams: %s is none of %s" . (keys $known | sortAlpha | join ", ")) -}}
  {{- end -}}
  {{- $entries = append $entries (printf "%s: %s" (toJson .) (get $known .)) -}}
{{- end -}}
{{- printf "{%s}" (join ", " $entries) -}}
{{- end -}}

{{/* The settings as variables, so that no ConfigMap is needed where the pod is; takes root, mode. */}}
{{- define "mobula-proxy.sidecar.settings" -}}
{{- $values := .root.Values -}}
{{- $port := eq .mode "tls" | ternary 443 ($values.sidecar.port | int) -}}
{{- $decided := dict
      "role" (empty $values.sidecar.secret.apiKeyKey | ternary "member" "both")
      "listeners" (list (dict "bind" (printf "127.0.0.1:%d" $port) "mode" .mode))
      "admin" (dict "bind" (printf "%s:%d" $values.bindAddress ($values.sidecar.adminPort | int)))
      "shutdown" (dict "exit_zero_on_sigterm" true)
      "log" (dict "format" "json") -}}
{{- if ne .mode "reverse" -}}
  {{- $public := include "mobula-proxy.sidecar.public" .root -}}
  {{- $_ := set $decided "ca" (dict "dir" "/var/lib/mobula-proxy/ca" "public_dir" (printf "%s/ca" $public)) -}}
{{- end -}}
{{- if eq .mode "tls" -}}
  {{- $_ := set $decided "resolver" "dns" -}}
{{- end -}}
{{- $config := omit (deepCopy $values.config) "ca" "upstreams" "clients" "service_accounts" -}}
{{- $variables := dict -}}
{{- range $section, $settings := mergeOverwrite $decided $config -}}
  {{- if kindIs "map" $settings -}}
    {{- range $name, $value := $settings -}}
      {{- $_ := set $variables (printf "MOBULA_PROXY__%s__%s" (upper $section) (upper $name)) $value -}}
    {{- end -}}
  {{- else -}}
    {{- $_ := set $variables (printf "MOBULA_PROXY__%s" (upper $section)) $settings -}}
  {{- end -}}
{{- end -}}
{{- range $name, $value := $variables }}
{{ $name }}: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- end -}}

{{/*
What the sidecar has of the Secret in the pod's namespace, and how it finds the store; takes root,
secretName, storeUrl.
*/}}
{{- define "mobula-proxy.sidecar.secret" -}}
{{- $values := .root.Values -}}
{{- $secret := $values.sidecar.secret -}}
{{- $name := get . "secretName" | default $secret.name -}}
{{- $url := get . "storeUrl" | default $values.store.url -}}
{{- $mints := not (empty $secret.apiKeyKey) -}}
{{- $file := $mints | ternary "api-key" "store-secret" -}}
{{- if not (or $url $secret.storeUrlKey $secret.apiKeyKey) -}}
  {{- fail "store.url is empty: sidecars without the static key live on what others mint, and find it in a Redis. Set store.url, sidecar.secret.storeUrlKey, or sidecar.secret.apiKeyKey" -}}
{{- end -}}
env:
  - name: {{ $mints | ternary "MOBULA_API_KEY_FILE" "MOBULA_STORE_SECRET_FILE" }}
    value: /run/secrets/mobula/{{ $file }}
  {{- if $secret.storeUrlKey }}
  - name: MOBULA_PROXY__STORE__URL
    valueFrom:
      secretKeyRef:
        name: {{ $name | quote }}
        key: {{ $secret.storeUrlKey | quote }}
  {{- else if $url }}
  - name: MOBULA_PROXY__STORE__URL
    value: {{ $url | quote }}
  {{- end }}
mounts:
  - name: mobula-proxy-secret
    mountPath: /run/secrets/mobula
    readOnly: true
volumes:
  - name: mobula-proxy-secret
    secret:
      secretName: {{ $name | quote }}
      defaultMode: 0444 # the group of the pod is the app's affair; only the sidecar mounts it
      items:
        - key: {{ $secret.apiKeyKey | default $secret.storeSecretKey | quote }}
          path: {{ $file }}
{{- end -}}

{{/* The environment of apps: as `mobula-proxy exec` gives it, and a test compares them. */}}
{{- define "mobula-proxy.sidecar.environment" -}}
{{- $ca := printf "%s/ca" (include "mobula-proxy.sidecar.public" .root) -}}
{{- $port := .root.Values.sidecar.port | int -}}
{{- $url := printf "http://127.0.0.1:%d" $port -}}
{{- $java := printf "-Djavax.net.ssl.trustStore=%s/truststore.p12 -Djavax.net.ssl.trustStorePassword=changeit -Djavax.net.ssl.trustStoreType=PKCS12" $ca -}}
{{- if ne .mode "tls" }}
- name: MOBULA_API_URL
  value: {{ $url }}
{{- end }}
{{- if eq .mode "forward" }}
{{- range list "http_proxy" "HTTP_PROXY" "https_proxy" "HTTPS_PROXY" }}
- name: {{ . }}
  value: {{ $url }}
{{- end }}
{{- $direct := concat .root.Values.sidecar.noProxy (include "mobula-proxy.sidecar.direct" .root | fromYamlArray) }}
{{- range list "no_proxy" "NO_PROXY" }}
- name: {{ . }}
  value: {{ join "," $direct | quote }}
{{- end }}
- name: NODE_USE_ENV_PROXY
  value: "1"
{{- $java = printf "%s %s" $java (include "mobula-proxy.sidecar.java" (dict "port" $port "direct" $direct)) }}
{{- end }}
{{- if ne .mode "reverse" }}
{{- range list "SSL_CERT_FILE" "CURL_CA_BUNDLE" "REQUESTS_CA_BUNDLE" "AWS_CA_BUNDLE" "GIT_SSL_CAINFO" }}
- name: {{ . }}
  value: {{ $ca }}/bundle.pem
{{- end }}
{{- range list "NODE_EXTRA_CA_CERTS" "DENO_CERT" }}
- name: {{ . }}
  value: {{ $ca }}/ca.pem
{{- end }}
- name: JAVA_TOOL_OPTIONS
  value: {{ $java | quote }}
{{- end }}
{{- end -}}

{{/* Where the proxy leads nobody: loopback, and where clouds have programs ask for credentials. */}}
{{- define "mobula-proxy.sidecar.direct" -}}
- localhost
- 127.0.0.1
- "::1"
- 169.254.169.254
- 169.254.170.2
- 169.254.170.23
- 100.100.100.200
- fd00:ec2::254
- metadata.google.internal
{{- end -}}

{{/* The same for Java, which knows no networks; takes port and direct. */}}
{{- define "mobula-proxy.sidecar.java" -}}
{{- $hosts := list "localhost" "127.*" "[::1]" -}}
{{- range .direct -}}
  {{- $name := regexReplaceAll "^[*.]+" . "" -}}
  {{- if not (or (contains "/" $name) (regexMatch ":.*:" $name)) -}}
    {{- if regexMatch "^[0-9.]+$" $name -}}
      {{- $hosts = append $hosts $name -}}
    {{- else if ne $name . -}}
      {{- $hosts = append $hosts (printf "*.%s" $name) -}}
    {{- else -}}
      {{- $hosts = concat $hosts (list $name (printf "*.%s" $name)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $options := list -}}
{{- range list "http" "https" -}}
  {{- $options = append $options (printf "-D%s.proxyHost=127.0.0.1 -D%s.proxyPort=%d" . . $.port) -}}
{{- end -}}
{{- printf "%s -Dhttp.nonProxyHosts=%s" (join " " $options) (uniq $hosts | join "|") -}}
{{- end -}}
