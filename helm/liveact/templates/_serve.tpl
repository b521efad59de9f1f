{{/* Deployment name by field of the configuration. */}}
{{- define "liveact.stages" -}}
gateway: Gateway
conditioner: Conditioner
audio_encoder: AudioEncoder
vae_encoder: VaeEncoder
vae_decoder: VaeDecoder
denoiser: Denoiser
vault: Vault
{{- end -}}

{{/* The pool whose GPUs serve all pools' other stages: the default one, where it has any; "" is whichever. */}}
{{- define "liveact.sharedPool" -}}
{{- range $name, $given := .Values.workers -}}
{{- $group := include "liveact.group" (dict "root" $ "group" $given) | fromYaml -}}
{{- if and (gt ($group.gpus | int) 0) (eq $group.pool "default") }}default{{ break }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* The nodes a stage runs on: those with GPUs, of its pool, or those without. */}}
{{- define "liveact.nodeLabels" -}}
liveact-kind: {{ gt (.stage.num_gpus | default 0 | float64) 0.0 | ternary "gpu" "cpu" }}
{{- if and .pool (gt (.stage.num_gpus | default 0 | float64) 0.0) }}
liveact-pool: {{ .pool }}
{{- end }}
{{- end -}}

{{/*
A stage's arguments. A fixed number of replicas stands under `deployments` instead: changing it there starts or stops replicas,
changing arguments exchanges every replica of the application.
*/}}
{{- define "liveact.stage" -}}
{{- $stage := deepCopy .stage -}}
{{- if not $stage.autoscaling -}}{{- $_ := unset $stage "replicas" -}}{{- end -}}
{{- if not $stage.node_labels -}}
{{- $_ := set $stage "node_labels" (include "liveact.nodeLabels" . | fromYaml) -}}
{{- end -}}
{{- toYaml $stage -}}
{{- end -}}

{{/* Arguments of liveact_services.graph:app, which are the service's configuration. */}}
{{- define "liveact.args" -}}
{{- $args := deepCopy .Values.config -}}
{{- range $field, $name := include "liveact.stages" . | fromYaml -}}
{{- $given := dict "stage" (get $args $field | default dict) "pool" (eq $field "denoiser" | ternary "default" (include "liveact.sharedPool" $)) -}}
{{- $_ := set $args $field (include "liveact.stage" $given | fromYaml) -}}
{{- end -}}
{{- $pools := dict -}}
{{- range $pool, $stage := $args.pools | default dict -}}
{{- $_ := set $pools $pool (include "liveact.stage" (dict "stage" ($stage | default dict) "pool" $pool) | fromYaml) -}}
{{- end -}}
{{- $_ := set $args "pools" $pools -}}
{{- $source := .Values.weights.source -}}
{{- if has $source (list "shipped" "untrained") -}}
{{- $_ := set $args "checkpoint" $source -}}
{{- else -}}
{{- $_ := set $args "checkpoint" (printf "/models/%s" .Values.weights.path | trimSuffix "/") -}}
{{- end -}}
{{- if include "liveact.tenantsSecret" . -}}
{{- $_ := set $args "tenants" "/etc/liveact/tenants" -}}
{{- end -}}
{{- toYaml $args -}}
{{- end -}}

{{- define "liveact.replicaCounts" -}}
{{- range $field, $name := include "liveact.stages" . | fromYaml }}
{{- $stage := get $.Values.config $field | default dict }}
{{- if not $stage.autoscaling }}
- name: {{ $name }}
  num_replicas: {{ $stage.replicas | default 1 }}
{{- end }}
{{- end }}
{{- range $pool, $stage := .Values.config.pools | default dict }}
{{- if not ($stage | default dict).autoscaling }}
- name: Denoiser-{{ $pool }}
  num_replicas: {{ ($stage | default dict).replicas | default 1 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "liveact.serveConfig" -}}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: 8000
grpc_options:
  port: 9000
  grpc_servicer_functions:
    - liveact.v1.avatar_pb2_grpc.add_AvatarServiceServicer_to_server
    - grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server
applications:
  - name: liveact
    route_prefix: /
    import_path: liveact_services.graph:app
    args:
      {{- include "liveact.args" . | nindent 6 }}
    deployments:
      {{- include "liveact.replicaCounts" . | trim | nindent 6 }}
{{- end -}}
