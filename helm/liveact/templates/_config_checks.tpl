{{/*
What the service would refuse of its configuration once it is deployed, refused before: services/liveact_services/config.py. How many
ranks a preset takes is in the schema.
*/}}
{{- define "liveact.configChecks" -}}
{{- $config := .Values.config -}}
{{- if hasKey ($config.pools | default dict) "default" -}}
{{- fail "config.pools.default: the pool default is config.denoiser; accepted are other names" -}}
{{- end -}}
{{- $told := list "gateway" "conditioner" "audio_encoder" "vae_encoder" "vault" -}}
{{- range $field, $deployment := include "liveact.stages" . | fromYaml -}}
{{- $stage := get $config $field | default dict -}}
{{- include "liveact.scalingCheck" (dict "where" (printf "config.%s" $field) "stage" $stage "told" (has $field $told)) -}}
{{- end -}}
{{- include "liveact.ranksCheck" (dict "root" . "where" "config.denoiser" "pool" "default" "stage" (get $config "denoiser" | default dict)) -}}
{{- range $pool, $given := $config.pools | default dict -}}
{{- $where := printf "config.pools.%s" $pool -}}
{{- include "liveact.scalingCheck" (dict "where" $where "stage" ($given | default dict) "told" false) -}}
{{- include "liveact.ranksCheck" (dict "root" $ "where" $where "pool" $pool "stage" ($given | default dict)) -}}
{{- end -}}
{{- if eq (dig "sessions" "export_blocks" 4 $config | int) 1 -}}
{{- fail "config.sessions.export_blocks is 1: every export would find the last one on its way; accepted are 0, never, and 2 on" -}}
{{- end -}}
{{- end -}}

{{- define "liveact.scalingCheck" -}}
{{- $where := .where -}}
{{- $told := .told -}}
{{- $stage := .stage -}}
{{- with $stage.autoscaling -}}
{{- $min := .min_replicas | default 1 | int -}}
{{- $max := .max_replicas | int -}}
{{- if lt $max $min -}}
{{- fail (printf "%s.autoscaling.max_replicas is %d, below min_replicas %d: accepted is as many or more" $where $max $min) -}}
{{- end -}}
{{- if and $stage.replicas (or (lt ($stage.replicas | int) $min) (gt ($stage.replicas | int) $max)) -}}
{{- fail (printf "%s.replicas is %d: accepted to start with are %d to %d, the bounds of autoscaling" $where ($stage.replicas | int) $min $max) -}}
{{- end -}}
{{- if and $told (not .sessions_per_replica) -}}
{{- fail (printf "%s.autoscaling.sessions_per_replica is missing: accepted is how many sessions one replica carries" $where) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* All ranks of a replica are on one node. */}}
{{- define "liveact.ranksCheck" -}}
{{- $ranks := .stage.ranks | default 1 | int -}}
{{- $each := .stage.num_gpus | default 0 | float64 -}}
{{- if and (gt $ranks 1) (ne $each 0.0) (ne $each 1.0) -}}
{{- fail (printf "%s.num_gpus is %v with %d ranks: accepted for each rank are 0 and 1" .where $each $ranks) -}}
{{- end -}}
{{- $wanted := mulf $ranks $each -}}
{{- $most := 0 -}}
{{- $pool := .pool -}}
{{- range $name, $given := .root.Values.workers -}}
{{- $group := include "liveact.group" (dict "root" $.root "group" $given) | fromYaml -}}
{{- if eq $group.pool $pool -}}{{- $most = max $most ($group.gpus | int) -}}{{- end -}}
{{- end -}}
{{- if and (gt $wanted 0.0) (not .stage.node_labels) (lt ($most | float64) $wanted) -}}
{{- fail (printf "%s.num_gpus: with its ranks a replica takes %v GPUs of one node, and no group of workers of the pool %s has more than %d a pod" .where $wanted $pool $most) -}}
{{- end -}}
{{- end -}}
