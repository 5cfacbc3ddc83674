{{/* What the schema cannot say: values that do not go together. All of it is told at once. */}}

{{- define "mobula-proxy.validate" -}}
{{- $values := .Values -}}
{{- $gateway := eq $values.mode "gateway" -}}
{{- $mints := or $values.minter.enabled $gateway -}}
{{- $wrong := list -}}
{{- if not $values.image.repository -}}
  {{- $wrong = append $wrong "image.repository is empty: build the image, push it to a registry of yours, and name it, as in --set image.repository=registry.example.com/mobula-proxy" -}}
{{- end -}}
{{- if and $gateway (lt (int $values.replicas) 2) -}}
  {{- $wrong = append $wrong (printf "replicas is %d: a gateway needs at least 2, so that one may end while the others serve" (int $values.replicas)) -}}
{{- end -}}
{{- if and $mints (not $values.store.url) (not $values.store.existingSecret.name) -}}
  {{- $wrong = append $wrong "store.url is empty: proxies share tokens, and Mobula's five creation calls a minute, through Redis; set it, as in redis://redis:6379/0, or store.existingSecret.name to a Secret with the URL" -}}
{{- end -}}
{{- if and $values.store.url $values.store.existingSecret.name -}}
  {{- $wrong = append $wrong "store.url and store.existingSecret.name are both set: leave one of them out" -}}
{{- end -}}
{{- if regexMatch "(@|password=)" $values.store.url -}}
  {{- $wrong = append $wrong "store.url holds credentials, which whoever may read the release could read: put the whole URL into a Secret, and its name into store.existingSecret.name" -}}
{{- end -}}
{{- if contains "@" (get $values.config "upstream_proxy" | default "" | toString) -}}
  {{- $wrong = append $wrong "config.upstream_proxy holds credentials, which whoever may read the release could read: put it into a Secret, and name that in extraEnv as MOBULA_PROXY__UPSTREAM_PROXY" -}}
{{- end -}}
{{- $wrong = concat $wrong (include "mobula-proxy.credentialClashes" (dict "name" "apiKey" "from" $values.apiKey "noun" "the static key" "needed" $mints) | fromYamlArray) -}}
{{- $wrong = concat $wrong (include "mobula-proxy.credentialClashes" (dict "name" "store.secret" "from" $values.store.secret "noun" "the store secret" "needed" $values.minter.enabled) | fromYamlArray) -}}
{{- $wrong = concat $wrong (include "mobula-proxy.reserved" . | fromYamlArray) -}}
{{- $wrong = concat $wrong (include "mobula-proxy.sidecarClashes" . | fromYamlArray) -}}
{{- if $gateway -}}
  {{- $wrong = concat $wrong (include "mobula-proxy.gatewayClashes" . | fromYamlArray) -}}
{{- end -}}
{{- if $wrong -}}
  {{- fail (printf "\n\n%s\n" (join "\n" (uniq $wrong))) -}}
{{- end -}}
{{- end -}}

{{/* What is wrong with a credential's three sources; takes name, from, noun, needed. A YAML list. */}}
{{- define "mobula-proxy.credentialClashes" -}}
{{- $sources := compact (list .from.existingSecret.name .from.externalSecret.store .from.value) -}}
{{- if and .needed (not $sources) }}
- {{ printf "%s names no source: set %s.existingSecret.name to a Secret with %s under the key %s, or %s.externalSecret" .name .name .noun .from.existingSecret.key .name | quote }}
{{- end }}
{{- if gt (len $sources) 1 }}
- {{ printf "%s names %d sources: leave all but one of existingSecret, externalSecret and value out" .name (len $sources) | quote }}
{{- end }}
{{- if and .from.externalSecret.store (not .from.externalSecret.remoteKey) }}
- {{ printf "%s.externalSecret.remoteKey is empty: say what the store %s calls %s" .name .from.externalSecret.store .noun | quote }}
{{- end }}
{{- if and .from.value (not .from.allowInValues) }}
- {{ printf "%s.value is set: whoever may read the release could read %s; name a Secret in %s.existingSecret.name, or set %s.allowInValues to true if you mean it" .name .noun .name .name | quote }}
{{- end }}
{{- end -}}

{{/* Settings that the chart decides, since more hangs on them than the file. A YAML list. */}}
{{- define "mobula-proxy.reserved" -}}
{{- $config := .Values.config -}}
{{- $instead := dict
      "role" "minter.enabled decides it"
      "listeners" "say which in listeners, so that ports, Service and NetworkPolicy fit"
      "admin" "probes and monitoring rely on its port; bindAddress may be another"
      "api_key" "say where it is in apiKey"
      "clients_file" "name a Secret in clients.existingSecret.name"
      "state_dir" "pods keep nothing; the store does" -}}
{{- range $name, $what := $instead -}}
{{- if hasKey $config $name }}
- {{ printf "config.%s is set: leave it out; %s" $name $what | quote }}
{{- end -}}
{{- end -}}
{{- range $name, $what := dict "url" "store.url" "secret" "store.secret" -}}
{{- if hasKey (get $config "store" | default dict) $name }}
- {{ printf "config.store.%s is set: leave it out; say it in %s" $name $what | quote }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What does not go together in sidecars. A YAML list. */}}
{{- define "mobula-proxy.sidecarClashes" -}}
{{- $sidecar := .Values.sidecar -}}
{{- if eq (int $sidecar.port) (int $sidecar.adminPort) }}
- {{ printf "sidecar.adminPort is %d, as is sidecar.port: they must differ" (int $sidecar.port) | quote }}
{{- end }}
{{- range $entry := $sidecar.noProxy }}
{{- range include "mobula-proxy.sidecar.upstreams" $ | fromYamlArray }}
{{- if hasSuffix (regexReplaceAll "^[*.]+" $entry "") .name }}
- {{ printf "sidecar.noProxy has %s, which covers %s: apps would call that past their sidecar" $entry .name | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What does not go together in a gateway. A YAML list. */}}
{{- define "mobula-proxy.gatewayClashes" -}}
{{- $values := .Values -}}
{{- $listeners := $values.listeners -}}
{{- $ports := include "mobula-proxy.ports" . | fromYamlArray -}}
{{- if not $ports }}
- "listeners has none that is enabled: set listeners.reverse.enabled or listeners.forward.enabled to true"
{{- end }}
{{- if and $listeners.reverse.enabled $listeners.forward.enabled (eq (int $listeners.reverse.port) (int $listeners.forward.port)) }}
- {{ printf "listeners.forward.port is %d, as is that of listeners.reverse: they must differ" (int $listeners.forward.port) | quote }}
{{- end }}
{{- range $ports }}
{{- if eq (int .port) 9090 }}
- {{ printf "listeners.%s.port is 9090, which is the admin port: take another" .name | quote }}
{{- end }}
{{- end }}
{{- if and $listeners.authenticate (not (get $values.config "clients")) (not $values.clients.existingSecret.name) }}
- "there are no clients, so nobody could use the gateway: name them in config.clients or in a Secret, clients.existingSecret.name; or set listeners.authenticate to false if everyone may spend your tokens"
{{- end }}
{{- if and (not $listeners.authenticate) (or (get $values.config "clients") $values.clients.existingSecret.name) }}
- "listeners.authenticate is false, so nobody is asked for the clients that are named: set it to true, or leave config.clients and clients.existingSecret.name out"
{{- end }}
{{- if and $listeners.forward.enabled (not $values.ca.existingSecret.name) }}
- "ca.existingSecret.name is empty: all replicas of a forward listener must show certificates of one CA; put its key into a Secret, see docs/helm.md"
{{- end }}
{{- with $listeners.reverse.upstream }}
{{- $known := list }}
{{- range include "mobula-proxy.sidecar.upstreams" $ | fromYamlArray }}
{{- $known = append $known .name }}
{{- end }}
{{- if not (has . $known) }}
- {{ printf "listeners.reverse.upstream is %s, which is none of %s" . (join ", " $known) | quote }}
{{- end }}
{{- end }}
{{- if and $values.tls.existingSecret (not $listeners.reverse.enabled) }}
- "tls.existingSecret is set, but only the listener listeners.reverse speaks TLS: enable it, or leave tls out"
{{- end }}
{{- if and $values.tls.clientCa.existingSecret (not $values.tls.existingSecret) }}
- "tls.clientCa.existingSecret is set without tls.existingSecret: client certificates are shown over TLS only"
{{- end }}
{{- if and $values.injection.enabled (not $values.sidecar.secret.apiKeyKey) (not (include "mobula-proxy.storeSecretName" .)) }}
- "injection.enabled is true, but sidecars could not read what the gateway stores, since the static key seals it: set minter.enabled to true, or sidecar.secret.apiKeyKey"
{{- end }}
{{- if and $values.autoscaling.enabled (lt (int $values.autoscaling.maxReplicas) (int $values.autoscaling.minReplicas)) }}
- {{ printf "autoscaling.maxReplicas is %d, less than autoscaling.minReplicas, which is %d" (int $values.autoscaling.maxReplicas) (int $values.autoscaling.minReplicas) | quote }}
{{- end }}
{{- end -}}
