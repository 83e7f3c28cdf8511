{{- /* Fails with a sentence for each value that would otherwise be ignored. */}}
{{- define "redis.check" -}}
{{- $said := list }}
{{- range (.Files.Get "files/refused.yaml" | fromYamlArray) }}
{{- $rule := . }}
{{- range (ternary (list (printf "master.%s" .path) (printf "replica.%s" .path)) (list .path) (default false .pool)) }}
{{- $path := . }}
{{- $value := $.Values }}
{{- range splitList "." $path }}
{{- $value = ternary (get (ternary $value dict (kindIs "map" $value)) .) nil (and (kindIs "map" $value) (hasKey (ternary $value dict (kindIs "map" $value)) .)) }}
{{- end }}
{{- $refused := false }}
{{- if hasKey $rule "unless" }}
{{- $refused = true }}
{{- range concat $rule.unless (list nil "") }}
{{- if eq (toJson .) (toJson $value) }}
{{- $refused = false }}
{{- end }}
{{- end }}
{{- else }}
{{- $refused = not (empty $value) }}
{{- end }}
{{- if $refused }}
{{- $said = append $said (printf "%s: %s" $path $rule.why) }}
{{- end }}
{{- end }}
{{- end }}
{{- range list "configuration" "resources" "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" "podLabels" "podAnnotations" "extraEnvVars" "sidecars" "extraVolumes" "extraVolumeMounts" "terminationGracePeriodSeconds" }}
{{- $ours := get $.Values.replica . }}
{{- if and $ours (ne (toJson $ours) (toJson (get $.Values.master .))) }}
{{- $said = append $said (printf "replica.%s: an instance has no role of its own, so it must be the same as master.%s" . .) }}
{{- end }}
{{- end }}
{{- range $group := list "persistence" "persistentVolumeClaimRetentionPolicy" }}
{{- range $key, $ours := (get $.Values.replica $group | default dict) }}
{{- if ne (toJson $ours) (toJson (get (get $.Values.master $group) $key)) }}
{{- $said = append $said (printf "replica.%s.%s: an instance has no role of its own, so it must be the same as master.%s.%s" $group $key $group $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.replica.autoscaling.enabled (eq .Values.architecture "standalone") }}
{{- $said = append $said "replica.autoscaling.enabled: architecture standalone has no replicas" }}
{{- end }}
{{- if and .Values.replica.autoscaling.enabled (not (or .Values.replica.autoscaling.targetCPU .Values.replica.autoscaling.targetMemory)) }}
{{- $said = append $said "replica.autoscaling.enabled: give targetCPU or targetMemory" }}
{{- end }}
{{- if gt (len (include "redis.fullname" .)) 50 }}
{{- $said = append $said (printf "fullnameOverride: the name %s has more than 50 characters" (include "redis.fullname" .)) }}
{{- end }}
{{- if and (not .Values.image.repository) (or .Values.image.registry .Values.image.tag .Values.image.digest) }}
{{- $said = append $said "image: registry, tag and digest are of no use without image.repository" }}
{{- end }}
{{- if and .Values.networkPolicy.extraEgress .Values.networkPolicy.allowExternalEgress }}
{{- $said = append $said "networkPolicy.extraEgress: networkPolicy.allowExternalEgress lets everything out already" }}
{{- end }}
{{- if $said }}
{{- fail (printf "\n\nThese values cannot be carried out:\n  %s\n" (join "\n  " $said)) }}
{{- end }}
{{- end }}
