{{/* The cloud-config: address of the provider, certificates, timeout. */}}
{{- define "vpsie-autoscaler.cloudConfig" -}}
address: {{ include "vpsie-autoscaler.host" . }}:8086
key: /etc/cluster-autoscaler/tls/tls.key
cert: /etc/cluster-autoscaler/tls/tls.crt
cacert: /etc/cluster-autoscaler/tls/ca.crt
{{- if semverCompare ">=1.29.0-0" .Values.clusterAutoscaler.version }}
grpc_timeout: {{ .Values.clusterAutoscaler.grpcTimeout }}
{{- end }}
{{- end -}}

{{/* Flags of Cluster Autoscaler, as JSON. The chart sets them; `clusterAutoscaler.extraArgs` overrides them. */}}
{{- define "vpsie-autoscaler.autoscalerArguments" -}}
{{- $own := dict
  "cloud-provider" "externalgrpc"
  "cloud-config" "/etc/cluster-autoscaler/config/cloud-config.yaml"
  "namespace" .Release.Namespace
  "grpc-expander-url" (printf "%s:8087" (include "vpsie-autoscaler.host" .))
  "grpc-expander-cert" "/etc/cluster-autoscaler/tls/ca.crt" -}}
{{- $ca := .Values.clusterAutoscaler -}}
{{- $named := semverCompare ">=1.29.0-0" $ca.version -}}
{{- with $ca.startupTaints -}}
{{- $_ := set $own (ternary "startup-taint" "ignore-taint" $named) . -}}
{{- end -}}
{{- with $ca.statusTaints -}}
{{- if not $named -}}
{{- fail (printf "clusterAutoscaler.statusTaints needs clusterAutoscaler.version 1.29 or newer, not %s" $ca.version) -}}
{{- end -}}
{{- $_ := set $own "status-taint" . -}}
{{- end -}}
{{- toJson (mergeOverwrite $own $ca.extraArgs) -}}
{{- end -}}

{{- define "vpsie-autoscaler.autoscalerFlags" -}}
{{- range $name, $value := include "vpsie-autoscaler.autoscalerArguments" . | fromJson -}}
{{- include "vpsie-autoscaler.flag" (list $name $value) -}}
{{- end -}}
{{- end -}}
