{{- define "mayfly.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mayfly.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mayfly.labels" -}}
{{ include "mayfly.selector" . }}
app.kubernetes.io/version: {{ default .Chart.AppVersion .Values.image.tag | replace "+" "_" | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{- end -}}

{{- define "mayfly.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "mayfly.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "mayfly.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "mayfly.port" -}}
{{- if .Values.service.port -}}{{ .Values.service.port }}{{- else if .Values.tls.enabled -}}443{{- else -}}80{{- end -}}
{{- end -}}

{{/* "yes" if the key is in the Secret of the values ca, and "" if config.ca says where it is. */}}
{{- define "mayfly.keyInSecret" -}}
{{- $ca := default dict .Values.config.ca -}}
{{- $other := false -}}
{{- range list "file" "kms" "pkcs11" "tink" "ephemeral" "chains" -}}
{{- if hasKey $ca . -}}{{- $other = true -}}{{- end -}}
{{- end -}}
{{- if not $other -}}yes{{- end -}}
{{- end -}}

{{/* The logs, as ct.logs of mayfly.yaml has them, in the member "logs". */}}
{{- define "mayfly.logs" -}}
{{- $logs := list -}}
{{- range .Values.ct.logs -}}
{{- $logs = append $logs (merge (deepCopy .) (dict "public_key" (printf "ct/%s.pem" .name))) -}}
{{- end -}}
{{- dict "logs" $logs | toYaml -}}
{{- end -}}

{{/* mayfly.yaml */}}
{{- define "mayfly.config" -}}
{{- $listen := dict "http" ":5555" "grpc" ":5554" "admin" ":2112" "drain_delay" "10s" -}}
{{- if .Values.tls.enabled -}}
{{- $_ := set $listen "tls" (dict "certificate" "tls/tls.crt" "key" "tls/tls.key") -}}
{{- end -}}
{{- range list "http" "grpc" "admin" -}}
{{- if hasKey (default dict $.Values.config.listen) . -}}
{{- fail (printf "config.listen.%s is not a value of this chart: the pods listen on 5555, 5554 and 2112; write service.port and service.grpcPort" .) -}}
{{- end -}}
{{- end -}}
{{- $audit := dict "file" "/var/lib/mayfly/journal.jsonl" -}}
{{- if gt (int .Values.replicas) 1 -}}
{{- /* A server sees its own journal only, and would report the certificates of the others. */ -}}
{{- $_ := set $audit "reconcile" (dict "every" "off") -}}
{{- end -}}
{{- $c := dict "listen" $listen "identity" (dict "file" "identity.yaml") "audit" $audit "state_dir" "/var/lib/mayfly/state" "production" true -}}
{{- if include "mayfly.keyInSecret" . -}}
{{- $file := dict "chain" "ca/chain.pem" "key" "ca/key.pem" -}}
{{- if .Values.ca.password -}}{{- $_ := set $file "password" (dict "file" "ca/password") -}}{{- end -}}
{{- $_ := set $c "ca" (dict "file" $file) -}}
{{- end -}}
{{- $ct := dict -}}
{{- if not (hasKey (default dict .Values.config.ct) "none") -}}
{{- if .Values.ct.logs -}}{{- $_ := set $ct "logs" (get (include "mayfly.logs" . | fromYaml) "logs") -}}{{- end -}}
{{- if .Values.ct.embedded -}}
{{- if gt (int .Values.replicas) 1 -}}
{{- fail "ct.embedded is a log in one server: write replicas: 1, or ct.logs for several servers" -}}
{{- end -}}
{{- $_ := set $ct "embedded" (dict "dir" "/var/lib/mayfly/ct" "origin" .Values.ct.embedded) -}}
{{- end -}}
{{- if not (or $ct .Values.config.ct) -}}
{{- fail "there is no log: write ct.logs for logs such as TesseraCT, or ct.embedded and replicas: 1" -}}
{{- end -}}
{{- end -}}
{{- $_ := set $c "ct" $ct -}}
{{- if .Values.valkey.addresses -}}
{{- $v := dict "addresses" .Values.valkey.addresses "mode" .Values.valkey.mode -}}
{{- if .Values.valkey.masterSet -}}{{- $_ := set $v "master_set" .Values.valkey.masterSet -}}{{- end -}}
{{- if .Values.valkey.password.secret -}}{{- $_ := set $v "password" (dict "file" "valkey/password") -}}{{- end -}}
{{- if .Values.valkey.tls.enabled -}}
{{- $t := dict -}}
{{- if .Values.valkey.tls.secret -}}{{- $_ := set $t "ca_cert" "valkey/ca.crt" -}}{{- end -}}
{{- $_ := set $v "tls" $t -}}
{{- end -}}
{{- $_ := set $c "shared" (dict "valkey" $v) -}}
{{- end -}}
{{- if .Values.url -}}{{- $_ := set $c "publish" (dict "url" .Values.url) -}}{{- end -}}
{{- mergeOverwrite $c (deepCopy .Values.config) | toYaml -}}
{{- end -}}

{{/* What a server reads at its start only: if it changes, the pods are replaced. All else is applied while they run. */}}
{{- define "mayfly.restart" -}}
{{- $c := include "mayfly.config" . | fromYaml -}}
{{- $r := pick $c "listen" "audit" "shared" "tracing" "state_dir" "rekor" "tsa" "find" -}}
{{- $_ := set $r "limits" (omit (default dict $c.limits) "source" "issuer" "identity") -}}
{{- $_ := set $r "embedded" (default dict (default dict $c.ct).embedded) -}}
{{- $r | toJson | sha256sum -}}
{{- end -}}

{{/* The sources of the volume /etc/mayfly. */}}
{{- define "mayfly.sources" -}}
- configMap:
    name: {{ include "mayfly.fullname" . }}
{{- if include "mayfly.keyInSecret" . }}
- secret:
    name: {{ .Values.ca.secret }}
    items:
      - {key: {{ .Values.ca.chain }}, path: ca/chain.pem}
      - {key: {{ .Values.ca.key }}, path: ca/key.pem}
      {{- if .Values.ca.password }}
      - {key: {{ .Values.ca.password }}, path: ca/password}
      {{- end }}
{{- end }}
{{- $keys := list }}
{{- range (get (include "mayfly.logs" . | fromYaml) "logs") }}
{{- range (list .public_key .ca_cert) }}
{{- if and . (hasPrefix "ct/" .) }}{{- $keys = append $keys (trimPrefix "ct/" .) }}{{- end }}
{{- end }}
{{- end }}
{{- with $keys }}
- configMap:
    name: {{ $.Values.ct.keys }}
    items:
      {{- range (uniq .) }}
      - {key: {{ . }}, path: ct/{{ . }}}
      {{- end }}
{{- end }}
{{- if .Values.tls.enabled }}
- secret:
    name: {{ .Values.tls.secret }}
    items:
      - {key: tls.crt, path: tls/tls.crt}
      - {key: tls.key, path: tls/tls.key}
{{- end }}
{{- if .Values.valkey.addresses }}
{{- with .Values.valkey.password }}
{{- if .secret }}
- secret:
    name: {{ .secret }}
    items:
      - {key: {{ .key }}, path: valkey/password}
{{- end }}
{{- end }}
{{- if and .Values.valkey.tls.enabled .Values.valkey.tls.secret }}
- secret:
    name: {{ .Values.valkey.tls.secret }}
    items:
      - {key: ca.crt, path: valkey/ca.crt}
{{- end }}
{{- end }}
{{- with .Values.sources }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The TCP ports to which the servers connect, as the list "ports". */}}
{{- define "mayfly.egressPorts" -}}
{{- $ports := list -}}
{{- range .Values.networkPolicy.egressPorts -}}{{- $ports = append $ports (int .) -}}{{- end -}}
{{- $urls := list -}}
{{- range .Values.ct.logs -}}{{- $urls = concat $urls (compact (list .url .monitoring_url)) -}}{{- end -}}
{{- range $urls -}}
{{- $u := urlParse . -}}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $u.host) -}}
{{- if $port -}}{{- $ports = append $ports (int $port) -}}
{{- else -}}{{- $ports = append $ports (ternary 80 443 (eq $u.scheme "http")) -}}{{- end -}}
{{- end -}}
{{- range .Values.valkey.addresses -}}{{- $ports = append $ports (int (regexFind "[0-9]+$" .)) -}}{{- end -}}
{{- dict "ports" (uniq $ports) | toYaml -}}
{{- end -}}
