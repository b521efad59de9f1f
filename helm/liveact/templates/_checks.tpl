{{/* What the schema cannot say: values that need or exclude one another. Every message names the value and what is accepted. */}}
{{- define "liveact.checks" -}}
{{- $v := .Values -}}
{{- $w := $v.weights -}}
{{- if and (eq $w.source "claim") (not $w.claim) -}}
{{- fail "weights.claim is missing: weights.source is claim, which takes the name of a PersistentVolumeClaim" -}}
{{- end -}}
{{- if and (eq $w.source "image") (not $w.image) -}}
{{- fail "weights.image is missing: weights.source is image, which takes repository and tag or digest" -}}
{{- end -}}
{{- if eq $w.source "objectStore" -}}
{{- if not $w.objectStore.url -}}
{{- fail "weights.objectStore.url is missing: accepted is https://, s3:// or gs://" -}}
{{- end -}}
{{- if not $w.objectStore.sumsSha256 -}}
{{- fail "weights.objectStore.sumsSha256 is missing: accepted is the SHA-256 of the folder's SHA256SUMS" -}}
{{- end -}}
{{- end -}}
{{- if and (eq $w.source "shipped") (ne ($v.config.preset | default "tiny") "tiny") -}}
{{- fail (printf "weights.source is shipped: the image holds weights of the preset tiny and config.preset is %s; accepted are claim, image, objectStore and untrained" $v.config.preset) -}}
{{- end -}}

{{- if and (eq $v.tenants.mode "directory") (not $v.tenants.directory) -}}
{{- fail "tenants.directory is missing: tenants.mode is directory, which takes the YAML of docs/tenants.md" -}}
{{- end -}}
{{- if and (eq $v.tenants.mode "existingSecret") (not $v.tenants.existingSecret) -}}
{{- fail "tenants.existingSecret is missing: tenants.mode is existingSecret, which takes a Secret's name" -}}
{{- end -}}
{{- if and (eq $v.tenants.mode "everybody") (or $v.gateway.enabled $v.ingress.enabled) -}}
{{- fail "tenants.mode is everybody: behind gateway or ingress accepted are directory and existingSecret" -}}
{{- end -}}

{{- $external := $v.redis.external -}}
{{- if $v.redis.bundled.enabled -}}
{{- if or $external.url $external.existingSecret.name -}}
{{- fail "redis.external is set and redis.bundled.enabled is true: accepted is one of them" -}}
{{- end -}}
{{- if not (regexMatch "^[0-9]+(Mi|Gi)$" $v.redis.bundled.memory) -}}
{{- fail (printf "redis.bundled.memory is %s: accepted is a whole number of Mi or Gi" $v.redis.bundled.memory) -}}
{{- end -}}
{{- else -}}
{{- if not (or $external.url $external.existingSecret.name) -}}
{{- fail "redis.external.url is missing: redis.bundled.enabled is false, so accepted is url, or existingSecret.name" -}}
{{- end -}}
{{- if and $external.url $external.existingSecret.name -}}
{{- fail "redis.external.url and redis.external.existingSecret.name: accepted is one of them" -}}
{{- end -}}
{{- if and $v.ray.gcsFaultTolerance (not $v.redis.gcs.address) -}}
{{- fail "redis.gcs.address is missing: ray.gcsFaultTolerance needs a Redis, and redis.bundled.enabled is false" -}}
{{- end -}}
{{- end -}}

{{- if not $v.workers -}}
{{- fail "workers is empty: accepted is at least one group" -}}
{{- end -}}
{{- $pools := dict -}}
{{- $kinds := dict -}}
{{- range $name, $given := $v.workers -}}
{{- $group := include "liveact.group" (dict "root" $ "group" $given) | fromYaml -}}
{{- $min := $group.minReplicas | int -}}
{{- $max := max ($group.maxReplicas | int) (hasKey ($given | default dict) "maxReplicas" | ternary 0 $min) -}}
{{- if lt $max $min -}}
{{- fail (printf "workers.%s.maxReplicas is %d, below minReplicas %d: accepted is as many or more" $name $max $min) -}}
{{- end -}}
{{- if and (ne $group.replicas nil) (or (lt ($group.replicas | int) $min) (gt ($group.replicas | int) $max)) -}}
{{- fail (printf "workers.%s.replicas is %d: accepted are %d to %d, minReplicas to maxReplicas" $name ($group.replicas | int) $min $max) -}}
{{- end -}}
{{- if and (gt $max $min) (not $v.autoscaler.enabled) -}}
{{- fail (printf "workers.%s.maxReplicas is %d and minReplicas %d: nobody would add pods while autoscaler.enabled is false" $name $max $min) -}}
{{- end -}}
{{- if and (ne $group.minAvailable nil) (gt ($group.minAvailable | int) $min) -}}
{{- fail (printf "workers.%s.minAvailable is %d: accepted are 0 to %d, its minReplicas" $name ($group.minAvailable | int) $min) -}}
{{- end -}}
{{- if gt ($group.gpus | int) 0 -}}
{{- if not (hasKey (merge (dict "default" dict) ($v.config.pools | default dict)) $group.pool) -}}
{{- fail (printf "workers.%s.pool is %s: accepted are default and the names in config.pools" $name $group.pool) -}}
{{- end -}}
{{- $_ := set $pools $group.pool $name -}}
{{- $_ := set $kinds "gpu" $name -}}
{{- else -}}
{{- $_ := set $kinds "cpu" $name -}}
{{- end -}}
{{- end -}}

{{- include "liveact.configChecks" . -}}
{{- range $field, $deployment := include "liveact.stages" . | fromYaml -}}
{{- $stage := get $v.config $field | default dict -}}
{{- $kind := gt ($stage.num_gpus | default 0 | float64) 0.0 | ternary "gpu" "cpu" -}}
{{- if and (not $stage.node_labels) (not (hasKey $kinds $kind)) -}}
{{- fail (printf "config.%s has num_gpus %v: no group of workers is of %ss; accepted is such a group, or config.%s.node_labels" $field ($stage.num_gpus | default 0) (upper $kind) $field) -}}
{{- end -}}
{{- end -}}

{{- if lt (include "liveact.deletionDelay" . | int) (include "liveact.maxDuration" . | int) -}}
{{- fail (printf "upgrade.deletionDelaySeconds is %s: sessions may last %s s (config.sessions.max_duration_s); accepted is as long or longer" (include "liveact.deletionDelay" .) (include "liveact.maxDuration" .)) -}}
{{- end -}}
{{- if $v.gateway.enabled -}}
{{- if not $v.gateway.hostnames -}}
{{- fail "gateway.hostnames is empty: accepted are the names that clients call" -}}
{{- end -}}
{{- if and (not $v.gateway.parentRefs) (not (and $v.gateway.className $v.gateway.tlsSecret)) -}}
{{- fail "gateway.parentRefs is empty: accepted are Gateways that end TLS, or className and tlsSecret for one of this release's own" -}}
{{- end -}}
{{- end -}}
{{- if $v.ingress.enabled -}}
{{- if not $v.ingress.host -}}
{{- fail "ingress.host is missing: accepted is the name that clients call" -}}
{{- end -}}
{{- if not $v.ingress.tlsSecret -}}
{{- fail "ingress.tlsSecret is missing: keys travel in metadata, so accepted is a Secret with a certificate" -}}
{{- end -}}
{{- end -}}
{{- end -}}
