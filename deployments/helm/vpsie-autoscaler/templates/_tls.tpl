{{/* Secrets with the certificates. */}}
{{- define "vpsie-autoscaler.serverSecret" -}}
{{- if eq .Values.tls.mode "existing" -}}
{{- required "tls.existing.serverSecret is needed with tls.mode existing" .Values.tls.existing.serverSecret -}}
{{- else -}}
{{- include "vpsie-autoscaler.fullname" . }}-server-tls
{{- end -}}
{{- end -}}

{{- define "vpsie-autoscaler.clientSecret" -}}
{{- if eq .Values.tls.mode "existing" -}}
{{- required "tls.existing.clientSecret is needed with tls.mode existing" .Values.tls.existing.clientSecret -}}
{{- else -}}
{{- include "vpsie-autoscaler.fullname" . }}-client-tls
{{- end -}}
{{- end -}}

{{/* DNS names of the server's certificate. */}}
{{- define "vpsie-autoscaler.serverNames" -}}
- {{ include "vpsie-autoscaler.host" . }}
- {{ include "vpsie-autoscaler.fullname" . }}.{{ .Release.Namespace }}
- {{ include "vpsie-autoscaler.fullname" . }}
{{- end -}}

{{/*
A certificate authority and the two certificates that it signs, as JSON. Those of the cluster are kept. A certificate of
another authority, or with less than a third of its lifetime left, is replaced. Several templates need the same
certificates, so .Release holds them during the rendering. Helm would store .Values with the release, and --reuse-values
would restore them.
*/}}
{{- define "vpsie-autoscaler.generatedTls" -}}
{{- $key := printf "tls of %s" (include "vpsie-autoscaler.fullname" .) -}}
{{- if not (hasKey .Release $key) -}}
{{- $fullname := include "vpsie-autoscaler.fullname" . -}}
{{- $days := int .Values.tls.generated.days -}}
{{- $format := "2006-01-02T15:04:05Z07:00" -}}
{{- $annotation := "autoscaler.vpsie.com/not-after" -}}

{{- $authority := dict -}}
{{- $caUntil := "" -}}
{{- with lookup "v1" "Secret" .Release.Namespace (printf "%s-ca" $fullname) -}}
{{- $authority = buildCustomCert (get .data "tls.crt") (get .data "tls.key") -}}
{{- $caUntil = dig "metadata" "annotations" $annotation "" . -}}
{{- end -}}
{{- if not $authority -}}
{{- $authority = genCAWithKey $fullname 3650 (genPrivateKey "ecdsa") -}}
{{- $caUntil = dateInZone $format (now | dateModify "87600h") "UTC" -}}
{{- end -}}
{{- $caCert := b64enc $authority.Cert -}}
{{- $made := dict "ca" (dict "until" $caUntil "data" (dict "tls.crt" $caCert "tls.key" (b64enc $authority.Key))) -}}

{{- $leaves := dict "server" (include "vpsie-autoscaler.serverNames" . | fromYamlArray)
  "client" (list (include "vpsie-autoscaler.autoscaler" .)) -}}
{{- range $leaf, $names := $leaves -}}
{{- $stored := lookup "v1" "Secret" $.Release.Namespace (printf "%s-%s-tls" $fullname $leaf) -}}
{{- $until := dig "metadata" "annotations" $annotation "" $stored -}}
{{- $left := 0 -}}
{{- if and $until (eq (dig "data" "ca.crt" "" $stored) $caCert) -}}
{{- $left = sub (toDate $format $until | unixEpoch) (now | unixEpoch) -}}
{{- end -}}
{{- if gt (int64 $left) (div (mul $days 86400) 3) -}}
{{- $_ := set $made $leaf (dict "until" $until "data" $stored.data) -}}
{{- else -}}
{{- $pair := genSignedCertWithKey (first $names) nil $names $days $authority (genPrivateKey "ecdsa") -}}
{{- $_ := set $made $leaf (dict
  "until" (dateInZone $format (now | dateModify (printf "%dh" (mul $days 24))) "UTC")
  "data" (dict "ca.crt" $caCert "tls.crt" (b64enc $pair.Cert) "tls.key" (b64enc $pair.Key))) -}}
{{- end -}}
{{- end -}}
{{- $_ := set .Release $key (toJson $made) -}}
{{- end -}}
{{- get .Release $key -}}
{{- end -}}
