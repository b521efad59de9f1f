{{- define "liveact.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.security.runAsUser }}
runAsGroup: {{ .Values.security.runAsGroup }}
fsGroup: {{ .Values.security.fsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "liveact.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "liveact.resources" -}}
requests: {cpu: {{ .cpu | quote }}, memory: {{ .memory | quote }}{{ if .gpus }}, {{ .gpuResource }}: {{ .gpus }}{{ end }}}
limits: {cpu: {{ .cpu | quote }}, memory: {{ .memory | quote }}{{ if .gpus }}, {{ .gpuResource }}: {{ .gpus }}{{ end }}}
{{- end -}}

{{- define "liveact.hasModels" -}}
{{- if not (has .Values.weights.source (list "shipped" "untrained")) }}true{{ end -}}
{{- end -}}

{{/*
Environment of every Ray container. The Redis' URL is neither here nor in serveConfigV2: it is a file of a Secret, since whatever dumps an
environment would show its password.
*/}}
{{- define "liveact.env" -}}
- {name: LIVEACT_SECRETS_DIR, value: /etc/liveact/secrets}
# By this name its sessions are asked to leave when another cluster serves in its place.
- {name: LIVEACT_CLUSTER, valueFrom: {fieldRef: {fieldPath: "metadata.labels['ray.io/cluster']"}}}
- {name: HOME, value: /tmp}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS, value: "1"}
- {name: RAY_SERVE_LOG_ENCODING, value: JSON}
{{- if and (not .Values.redis.bundled.enabled) .Values.redis.external.caSecret.name }}
- {name: RAY_REDIS_CA_CERT, value: "/etc/liveact/redis-ca/{{ .Values.redis.external.caSecret.key }}"}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "liveact.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: secrets, mountPath: /etc/liveact/secrets, readOnly: true}
{{- if include "liveact.hasModels" . }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- if include "liveact.tenantsSecret" . }}
- {name: tenants, mountPath: /etc/liveact/tenants, readOnly: true}
{{- end }}
{{- if and (not .Values.redis.bundled.enabled) .Values.redis.external.caSecret.name }}
- {name: redis-ca, mountPath: /etc/liveact/redis-ca, readOnly: true}
{{- end }}
{{- end -}}

{{- define "liveact.redisVolumes" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ .scratch }}}
{{- with include "liveact.redisUrlRef" .root | fromYaml }}
- name: secrets
  secret: {secretName: {{ .name }}, defaultMode: 0440, items: [{key: {{ .key }}, path: redis_url}]}
{{- end }}
{{- with .root.Values.redis }}
{{- if and (not .bundled.enabled) .external.caSecret.name }}
- name: redis-ca
  secret: {secretName: {{ .external.caSecret.name }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- end -}}

{{- define "liveact.volumes" -}}
{{ include "liveact.redisVolumes" . }}
{{- with .root.Values.weights }}
{{- if eq .source "claim" }}
- name: models
  persistentVolumeClaim: {claimName: {{ .claim }}, readOnly: true}
{{- else if has .source (list "image" "objectStore") }}
- name: models
  emptyDir: {sizeLimit: {{ .size }}}
{{- end }}
{{- end }}
{{- with include "liveact.tenantsSecret" .root }}
- name: tenants
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* What puts the weights onto a pod's disk before Ray starts. */}}
{{- define "liveact.weightsContainer" -}}
{{- $w := .root.Values.weights -}}
- name: weights
  {{- if eq $w.source "image" }}
  image: {{ include "liveact.image" $w.image }}
  imagePullPolicy: {{ $w.image.pullPolicy | default "IfNotPresent" }}
  command: ["cp", "-R", "{{ $w.imagePath }}/.", "/models/"]
  {{- else }}
  image: {{ include "liveact.image" .image }}
  imagePullPolicy: {{ .image.pullPolicy }}
  command: ["python", "-m", "liveact_services.cluster.fetch"]
  args: ["--url", {{ $w.objectStore.url | quote }}, "--sums-sha256", {{ $w.objectStore.sumsSha256 | quote }}, "--into", "/models"]
  {{- with $w.objectStore.credentialsSecret }}
  envFrom:
    - secretRef: {name: {{ . }}}
  {{- end }}
  {{- end }}
  securityContext:
    {{- include "liveact.containerSecurity" .root | nindent 4 }}
  resources:
    requests: {cpu: "1", memory: 1Gi}
    limits: {cpu: "2", memory: 4Gi}
  volumeMounts:
    - {name: models, mountPath: /models}
    - {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "liveact.placement" -}}
{{- with .spec.priorityClassName | default .priorityClass }}
priorityClassName: {{ . }}
{{- end }}
{{- with .spec.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .spec.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .spec.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
A pod of Ray: `kind` head or worker, `component` its label, `spec` its values. Service links stay off: a Service called liveact would
set LIVEACT_PORT, which the configuration would read.
*/}}
{{- define "liveact.rayPod" -}}
metadata:
  labels:
    {{- include "liveact.podLabels" . | nindent 4 }}
  {{- with .spec.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "liveact.fullname" .root }}-{{ .kind }}
  automountServiceAccountToken: {{ and (eq .kind "head") .root.Values.autoscaler.enabled }}
  enableServiceLinks: false
  {{- with .root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  securityContext:
    {{- include "liveact.podSecurity" .root | nindent 4 }}
  terminationGracePeriodSeconds: {{ .grace }}
  {{- with .spec.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with include "liveact.placement" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .spec.topologySpread }}
  topologySpreadConstraints:
    {{- range . }}
    - topologyKey: {{ .topologyKey | default "topology.kubernetes.io/zone" }}
      maxSkew: {{ .maxSkew | default 1 }}
      whenUnsatisfiable: {{ .whenUnsatisfiable | default "ScheduleAnyway" }}
      labelSelector:
        matchLabels:
          {{- include "liveact.selector" $ | nindent 10 }}
    {{- end }}
  {{- end }}
  {{- if has .root.Values.weights.source (list "image" "objectStore") }}
  initContainers:
    {{- include "liveact.weightsContainer" . | nindent 4 }}
  {{- end }}
  containers:
    - name: ray-{{ .kind }}
      image: {{ include "liveact.image" .image }}
      imagePullPolicy: {{ .image.pullPolicy }}
      securityContext:
        {{- include "liveact.containerSecurity" .root | nindent 8 }}
      resources:
        {{- include "liveact.resources" .spec | nindent 8 }}
      env:
        {{- include "liveact.env" .root | nindent 8 }}
      ports:
        {{- if eq .kind "head" }}
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: client, containerPort: 10001}
        {{- end }}
        - {name: metrics, containerPort: 8080}
        - {name: serve, containerPort: 8000}
        - {name: serve-grpc, containerPort: 9000}
      {{- if eq .kind "worker" }}
      lifecycle:
        preStop:
          exec:
            command: ["python", "-m", "liveact_services.cluster.leave", "--wait", "{{ .root.Values.drain.waitSeconds }}"]
      {{- end }}
      volumeMounts:
        {{- include "liveact.mounts" .root | nindent 8 }}
  volumes:
    {{- include "liveact.volumes" (dict "root" .root "scratch" .spec.scratch) | nindent 4 }}
{{- end -}}
