{{/*
Flags of `serve`, as a map. The chart sets them from the values of the same name; `provider.extraArgs` overrides them.
*/}}
{{- define "vpsie-autoscaler.providerFlags" -}}
{{- $provider := .Values.provider -}}
{{- $tls := "/etc/vpsie-autoscaler/tls" -}}
{{- $address := $provider.listenAddress -}}
{{- $address = ternary (printf "[%s]" $address) $address (contains ":" $address) -}}
{{- $flags := dict
  "store" "kubernetes"
  "kubeconfig" "in-cluster"
  "namespace" .Release.Namespace
  "grpc-listen" (printf "%s:8086" $address)
  "grpc-tls-cert" (printf "%s/tls.crt" $tls)
  "grpc-tls-key" (printf "%s/tls.key" $tls)
  "grpc-tls-client-ca" (printf "%s/ca.crt" $tls)
  "expander-listen" (printf "%s:8087" $address)
  "expander-tls-cert" (printf "%s/tls.crt" $tls)
  "expander-tls-key" (printf "%s/tls.key" $tls)
  "http-listen" (printf "%s:8080" $address)
  "vpsie-secret-name" .Values.vpsie.existingSecret
  "vpsie-api-url" .Values.vpsie.apiURL
  "vpsie-rate-limit" .Values.vpsie.rateLimit
  "vpsie-deletion-share" .Values.vpsie.deletionShare
  "vpsie-timeout" .Values.vpsie.timeout
  "log-level" $provider.logLevel
  "log-format" $provider.logFormat
  "observe-interval" $provider.observeInterval
  "catalog-interval" $provider.catalogInterval
  "create-timeout" $provider.createTimeout
  "failed-vpsienode-ttl" $provider.failedVPSieNodeTTL
  "orphan-grace" $provider.orphanGrace
  "shutdown-grace" $provider.shutdownGrace
  "leader-election-id" $provider.leaderElection.id
  "leader-election-lease-duration" $provider.leaderElection.leaseDuration
  "leader-election-renew-deadline" $provider.leaderElection.renewDeadline
  "leader-election-retry-period" $provider.leaderElection.retryPeriod
  "reserved-cpu-millis" $provider.reserved.cpuMillis
  "reserved-memory-mib" $provider.reserved.memoryMiB
  "reserved-disk-gib" $provider.reserved.diskGiB
  "hours-per-month" $provider.hoursPerMonth
  "cost-limit-hourly" $provider.costLimit.hourly
  "cost-limit-monthly" $provider.costLimit.monthly
  "backend" (ternary "vm" "" $provider.selfManaged.enabled)
  "spot-instances" (ternary "true" "" $provider.spotInstances.enabled)
  "spot-grace-period" $provider.spotInstances.gracePeriod
  "spot-interruption-loss" $provider.spotInstances.interruptionLoss
  "spot-delete-pods" (ternary "" "false" $provider.spotInstances.deletePods)
  "notice-webhook-listen" (ternary (printf "%s:8088" $address) "" (ne $provider.noticeWebhook.existingSecret ""))
  "notice-webhook-key-file" (ternary "/etc/vpsie-autoscaler/notices/key" "" (ne $provider.noticeWebhook.existingSecret ""))
  "price-file" (ternary "/etc/vpsie-autoscaler/prices/prices.yaml" "" (gt (len $provider.priceFile.overrides) 0)) -}}
{{- range $name, $value := mergeOverwrite $flags $provider.extraArgs -}}
{{- if kindIs "bool" $value -}}
{{- if $value }}
- {{ printf "--%s" $name | quote }}
{{- else if has $name (list "spot-delete-pods" "spot-instances") }}
- {{ printf "--%s=false" $name | quote }}
{{- end -}}
{{- else if not (or (kindIs "invalid" $value) (eq (toString $value) "")) -}}
{{- include "vpsie-autoscaler.flag" (list $name $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
