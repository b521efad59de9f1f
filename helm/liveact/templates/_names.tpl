{{/* The name that every object's name begins with: at most 40 characters, since KubeRay appends to it. */}}
{{- define "liveact.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- (contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name)) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects this release's pods of a component. KubeRay gives app.kubernetes.io/name a value of its own. */}}
{{- define "liveact.selector" -}}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/*
Labels of pods: none that changes with the chart's version, since KubeRay answers a changed pod with a new cluster.
*/}}
{{- define "liveact.podLabels" -}}
{{ include "liveact.selector" . }}
app.kubernetes.io/part-of: liveact
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "liveact.labels" -}}
{{ include "liveact.podLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "liveact.meta" -}}
name: {{ include "liveact.fullname" .root }}{{ with .suffix }}-{{ . }}{{ end }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "liveact.labels" . | nindent 2 }}
{{- end -}}

{{- define "liveact.image" -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end -}}

{{/* The Service that KubeRay makes for Serve. */}}
{{- define "liveact.serveService" -}}
{{ include "liveact.fullname" . }}-serve
{{- end -}}

{{- define "liveact.authSecret" -}}
{{ .Values.ray.authSecret | default (printf "%s-ray-auth" (include "liveact.fullname" .)) }}
{{- end -}}

{{- define "liveact.tenantsSecret" -}}
{{- if eq .Values.tenants.mode "existingSecret" -}}
{{ .Values.tenants.existingSecret }}
{{- else if eq .Values.tenants.mode "directory" -}}
{{ include "liveact.fullname" . }}-tenants
{{- end -}}
{{- end -}}

{{/* The Secret and key that hold the sessions' Redis URL, as YAML. */}}
{{- define "liveact.redisUrlRef" -}}
{{- with .Values.redis.external.existingSecret -}}
{{- if and .name (not $.Values.redis.bundled.enabled) -}}
{name: {{ .name }}, key: {{ .key }}}
{{- else -}}
{name: {{ include "liveact.fullname" $ }}-redis, key: url}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A worker group with what it does not say filled in, as YAML. */}}
{{- define "liveact.group" -}}
{{- mergeOverwrite (deepCopy .root.Values.workerDefaults) (deepCopy (.group | default dict)) | toYaml -}}
{{- end -}}

{{- define "liveact.drainTimeout" -}}
{{ dig "drain_timeout_s" 20 .Values.config | int }}
{{- end -}}

{{- define "liveact.maxDuration" -}}
{{ dig "sessions" "max_duration_s" 86400 .Values.config | int }}
{{- end -}}

{{- define "liveact.deletionDelay" -}}
{{ .Values.upgrade.deletionDelaySeconds | default (include "liveact.maxDuration" .) }}
{{- end -}}
