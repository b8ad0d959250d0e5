{{- define "otel-url-monitor.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{/* 52 characters at most: a StatefulSet's pods carry its name and a hash of 11 in a label, where 63 fit. */}}
{{- define "otel-url-monitor.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{/* What never changes in a release: a workload's selector cannot be changed. */}}
{{- define "otel-url-monitor.selectorLabels" -}}
app.kubernetes.io/name: {{ include "otel-url-monitor.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "otel-url-monitor.metaLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "otel-url-monitor.labels" -}}
{{ include "otel-url-monitor.selectorLabels" . }}
{{ include "otel-url-monitor.metaLabels" . }}
{{- end }}

{{/* The pod of `helm test` must not be taken for a monitor by the Service. */}}
{{- define "otel-url-monitor.testLabels" -}}
app.kubernetes.io/name: {{ include "otel-url-monitor.name" . | trunc 58 | trimSuffix "-" }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Not empty when sharded. */}}
{{- define "otel-url-monitor.sharded" -}}
{{- if gt (int .Values.sharding.shards) 1 }}true{{ end -}}
{{- end }}

{{/* The Service by which the pods are reached. A sharded one is headless, and clusterIP cannot be changed: a new name. */}}
{{- define "otel-url-monitor.service" -}}
{{ include "otel-url-monitor.fullname" . }}{{ if include "otel-url-monitor.sharded" . }}-shards{{ end }}
{{- end }}

{{- define "otel-url-monitor.image" -}}
{{- $registry := required "image.registry is required, for example --set image.registry=registry.example.com/team" .Values.image.registry | trimSuffix "/" -}}
{{- if and $registry (not (regexMatch `^([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$` $registry)) -}}
{{- fail (printf "image.registry must be host[:port][/path] without a scheme, such as registry.example.com/team, got %q" .Values.image.registry) -}}
{{- end -}}
{{ $registry }}/{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ end -}}
{{- end }}

{{- define "otel-url-monitor.podSecurityContext" -}}
runAsNonRoot: true
{{- range $key, $value := .Values.podSecurityContext }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }}: {{ int64 $value }}
{{- end }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "otel-url-monitor.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Rules that span keys, which a schema cannot say in words. */}}
{{- define "otel-url-monitor.check" -}}
{{- if and .Values.existingConfigMap .Values.existingSecret -}}
{{- fail "existingConfigMap and existingSecret exclude each other: there is one configuration" -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled -}}
{{- fail "serviceMonitor and podMonitor exclude each other: every pod would be scraped twice" -}}
{{- end -}}
{{- if and (include "otel-url-monitor.sharded" .) (ne (int .Values.replicas) 1) -}}
{{- fail "replicas and sharding.shards exclude each other: a shard is one pod" -}}
{{- end -}}
{{- if and (include "otel-url-monitor.sharded" .) (ne .Values.service.type "ClusterIP") -}}
{{- fail "service.type must be ClusterIP when sharded: each pod answers for its own targets alone" -}}
{{- end -}}
{{- $port := default 5004 ((.Values.config).server).port -}}
{{- if ne (toString $port) "5004" -}}
{{- fail (printf "config.server.port must be 5004, where the pods listen, got %v; service.port is what others connect to" $port) -}}
{{- end -}}
{{- end }}
