{{- define "vpsie-autoscaler.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "vpsie-autoscaler.autoscaler" -}}
{{- include "vpsie-autoscaler.fullname" . }}-cluster-autoscaler
{{- end -}}

{{/* Labels that select the pods of a component: (list context component). */}}
{{- define "vpsie-autoscaler.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ default $.Chart.Name $.Values.nameOverride }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of an object: (list context component). */}}
{{- define "vpsie-autoscaler.labels" -}}
{{- $ := index . 0 -}}
{{- $own := include "vpsie-autoscaler.selector" . | fromYaml -}}
{{- $own = merge $own (dict
  "app.kubernetes.io/version" $.Chart.AppVersion
  "app.kubernetes.io/managed-by" $.Release.Service
  "helm.sh/chart" (printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_")) -}}
{{- toYaml (merge $own $.Values.commonLabels) -}}
{{- end -}}

{{/* (dict "account" values "default" name) */}}
{{- define "vpsie-autoscaler.account" -}}
{{- default (ternary .default "default" .account.create) .account.name -}}
{{- end -}}

{{- define "vpsie-autoscaler.serviceAccount" -}}
{{- include "vpsie-autoscaler.account" (dict "account" .Values.provider.serviceAccount "default" (include "vpsie-autoscaler.fullname" .)) -}}
{{- end -}}

{{- define "vpsie-autoscaler.autoscalerServiceAccount" -}}
{{- include "vpsie-autoscaler.account" (dict "account" .Values.clusterAutoscaler.serviceAccount "default" (include "vpsie-autoscaler.autoscaler" .)) -}}
{{- end -}}

{{/* (dict "repository" "tag" "digest") */}}
{{- define "vpsie-autoscaler.image" -}}
{{- .repository }}{{ ternary (printf "@%s" .digest) (printf ":%s" .tag) (ne .digest "") -}}
{{- end -}}

{{- define "vpsie-autoscaler.providerImage" -}}
{{- include "vpsie-autoscaler.image" (dict "repository" .Values.provider.image.repository
  "digest" .Values.provider.image.digest "tag" (default .Chart.AppVersion .Values.provider.image.tag)) -}}
{{- end -}}

{{- define "vpsie-autoscaler.priorityClass" -}}
{{- .Values.priorityClass.name | default (ternary (include "vpsie-autoscaler.fullname" .) "" .Values.priorityClass.create) -}}
{{- end -}}

{{/* Host of the leader's Service. The certificates name it. */}}
{{- define "vpsie-autoscaler.host" -}}
{{- include "vpsie-autoscaler.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* IP families of the Services. The API server sets defaults for empty values. */}}
{{- define "vpsie-autoscaler.ipFamilies" -}}
{{- with .Values.service.ipFamilyPolicy -}}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.service.ipFamilies }}
ipFamilies: {{ toJson . }}
{{- end }}
{{- end -}}

{{/*
A flag, given several times if its value is a list: (list name value). Helm reads numbers as floats and would print
large ones as 1e+06, so integers are converted.
*/}}
{{- define "vpsie-autoscaler.flag" -}}
{{- $name := index . 0 -}}
{{- $values := index . 1 -}}
{{- range (ternary $values (list $values) (kindIs "slice" $values)) -}}
{{- $value := . -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- $value = int64 . -}}
{{- end }}
- {{ printf "--%s=%v" $name $value | quote }}
{{- end -}}
{{- end -}}

{{/* Fields of every pod: (list context values), with the values of the component. */}}
{{- define "vpsie-autoscaler.placement" -}}
{{- $ := index . 0 -}}
{{- $own := index . 1 -}}
{{- with $.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "vpsie-autoscaler.priorityClass" $ }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  {{- toYaml $.Values.podSecurityContext | nindent 2 }}
{{- with $own.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
