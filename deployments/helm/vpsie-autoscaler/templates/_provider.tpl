{{/* Flags of `serve`. What is empty or null is left to the program. */}}
{{- define "vpsie-autoscaler.providerFlags" -}}
{{- $controller := .Values.controller -}}
{{- $tls := "/etc/vpsie-autoscaler/tls" -}}
{{- $at := ternary (printf "[%s]" $controller.listenAddress) $controller.listenAddress (contains ":" $controller.listenAddress) -}}
{{- $flags := list
  (list "store" "kubernetes")
  (list "kubeconfig" "in-cluster")
  (list "namespace" .Release.Namespace)
  (list "grpc-listen" (printf "%s:8086" $at))
  (list "grpc-tls-cert" (printf "%s/tls.crt" $tls))
  (list "grpc-tls-key" (printf "%s/tls.key" $tls))
  (list "grpc-tls-client-ca" (printf "%s/ca.crt" $tls))
  (list "expander-listen" (printf "%s:8087" $at))
  (list "expander-tls-cert" (printf "%s/tls.crt" $tls))
  (list "expander-tls-key" (printf "%s/tls.key" $tls))
  (list "http-listen" (printf "%s:8080" $at))
  (list "api-secret" .Values.vpsie.existingSecret)
  (list "api-url" .Values.vpsie.apiURL)
  (list "api-rate-limit" .Values.vpsie.rateLimit)
  (list "api-deletion-share" .Values.vpsie.deletionShare)
  (list "api-timeout" .Values.vpsie.timeout)
  (list "log-level" $controller.logLevel)
  (list "log-format" $controller.logFormat)
  (list "observe-interval" $controller.syncPeriod)
  (list "catalog-interval" $controller.catalogInterval)
  (list "create-timeout" $controller.nodeProvisionTimeout)
  (list "failed-ttl" $controller.failedTTL)
  (list "orphan-grace" $controller.orphanGrace)
  (list "shutdown-grace" (printf "%ds" (int $controller.shutdownGraceSeconds)))
  (list "leader-election-id" $controller.leaderElection.id)
  (list "leader-election-lease-duration" $controller.leaderElection.leaseDuration)
  (list "leader-election-renew-deadline" $controller.leaderElection.renewDeadline)
  (list "leader-election-retry-period" $controller.leaderElection.retryPeriod)
  (list "reserved-cpu-millis" $controller.reserved.cpuMillis)
  (list "reserved-memory-mib" $controller.reserved.memoryMiB)
  (list "reserved-disk-gib" $controller.reserved.diskGiB)
  (list "hours-per-month" .Values.cost.hoursPerMonth)
  (list "cost-limit-hourly" .Values.cost.limit.hourly)
  (list "cost-limit-monthly" .Values.cost.limit.monthly)
  (list "price-file" (ternary "/etc/vpsie-autoscaler/prices/prices.yaml" "" (gt (len .Values.cost.overrides) 0))) -}}
{{- range $flags -}}
{{- if not (or (kindIs "invalid" (index . 1)) (eq (toString (index . 1)) "")) -}}
{{- include "vpsie-autoscaler.flag" . -}}
{{- end -}}
{{- end -}}
{{- end -}}
