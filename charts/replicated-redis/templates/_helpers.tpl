{{- /* RELEASE-redis, by Bitnami's rules. */}}
{{- define "redis.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name }}
{{- end }}
{{- end }}

{{- define "redis.labels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* (dict "root" $ …): metadata. Besides: "name", "namespace", "labels". */}}
{{- define "redis.metadata" -}}
metadata:
  name: {{ .name | default (include "redis.fullname" .root) }}
  namespace: {{ .namespace | default .root.Release.Namespace }}
  labels:
    {{- include "redis.labels" .root | nindent 4 }}
    {{- with .labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .root.Values.commonAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- /* Selects the instances' pods. */}}
{{- define "redis.selector" -}}
replicated-redis.io/cluster: {{ include "redis.fullname" . }}
{{- end }}

{{- define "redis.secretName" -}}
{{- tpl .Values.auth.existingSecret . | default (include "redis.fullname" .) }}
{{- end }}

{{- define "redis.secretKey" -}}
{{- if .Values.auth.existingSecret }}
{{- tpl .Values.auth.existingSecretPasswordKey . | default "redis-password" }}
{{- else -}}
redis-password
{{- end }}
{{- end }}

{{- define "redis.image" -}}
{{- with .Values.image }}
{{- if contains "bitnami" .repository }}
{{- fail (printf "image.repository: %s does not hold the server of ReplicatedRedis; leave it empty for the operator's default" .repository) }}
{{- end }}
{{- if not (or .tag .digest) }}
{{- fail "image.repository needs image.tag or image.digest" }}
{{- end }}
{{- with $.Values.global.imageRegistry | default .registry }}{{ . }}/{{ end }}{{ .repository }}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}
{{- end }}

{{- /*
redis.conf text as the map of spec.config. Of a directive that is given twice the last counts, as in a file; those that add up
are put into one line, which means the same.
*/}}
{{- define "redis.config" -}}
{{- $config := dict }}
{{- range splitList "\n" . }}
{{- $line := trim . }}
{{- if and $line (not (hasPrefix "#" $line)) }}
{{- $words := regexSplit "[ \t]+" $line 2 }}
{{- $name := lower (first $words) }}
{{- $value := "" }}
{{- if eq (len $words) 2 }}
{{- $value = index $words 1 }}
{{- end }}
{{- if has $value (list "\"\"" "''") }}
{{- $value = "" }}
{{- end }}
{{- if and (eq $name "appendonly") (eq (lower $value) "yes") }}
{{- fail "commonConfiguration: appendonly yes: the append-only file is not built yet; snapshots (save) and replicas keep the data" }}
{{- end }}
{{- if and (has $name (list "save" "client-output-buffer-limit")) (get $config $name) $value }}
{{- $value = printf "%s %s" (get $config $name) $value }}
{{- end }}
{{- $_ := set $config $name $value }}
{{- end }}
{{- end }}
{{- toYaml $config }}
{{- end }}
