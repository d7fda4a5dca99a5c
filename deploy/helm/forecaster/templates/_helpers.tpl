{{- define "forecaster.labels" -}}
app.kubernetes.io/name: forecaster
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* A value as the environment variable needs it: 1000000 instead of 1e+06, lists with commas, objects as JSON. */}}
{{- define "forecaster.value" -}}
{{- if kindIs "float64" . -}}
{{- if eq (floor .) . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- else if kindIs "slice" . -}}
{{ join "," . }}
{{- else if kindIs "map" . -}}
{{ toJson . }}
{{- else -}}
{{ toString . }}
{{- end -}}
{{- end }}

{{/* Port of the HTTP server; empty = no server. */}}
{{- define "forecaster.port" -}}
{{- if hasKey .Values.settings "HTTP__PORT" }}{{ .Values.settings.HTTP__PORT }}{{ else }}8080{{ end -}}
{{- end }}

{{/* Port of the server for probes alone; empty = the HTTP server answers them. */}}
{{- define "forecaster.probePort" -}}
{{- if hasKey .Values.settings "HTTP__PROBE_PORT" }}{{ .Values.settings.HTTP__PROBE_PORT }}{{ else if include "forecaster.port" . }}8081{{ end -}}
{{- end }}

{{/* Name of the port that answers /metrics to others; empty = none. */}}
{{- define "forecaster.metricsPort" -}}
{{- if include "forecaster.port" . }}http{{ else if include "forecaster.probePort" . }}probes{{ end -}}
{{- end }}

{{/* Consumer group: each release has its own, because groups are shared by the whole Kafka cluster. */}}
{{- define "forecaster.group" -}}
{{- .Values.settings.KAFKA__GROUP_ID | default (printf "%s-%s" .Release.Namespace .Release.Name) -}}
{{- end }}

{{/* "yes" if the fleet trains; empty if nothing is trained. */}}
{{- define "forecaster.trains" -}}
{{- $off := list "off" "false" -}}
{{- $never := has (toString .Values.settings.TRAINING__SCHEDULE) $off -}}
{{- $kept := has (toString .Values.settings.TRAINING__READOUT_SCHEDULE) $off -}}
{{- if not (or (and $never $kept) .Values.settings.NETWORK__CHECKPOINT) }}yes{{ end -}}
{{- end }}

{{- define "forecaster.environment" -}}
{{- range $name := list "ROLE" "KAFKA__INSTANCE_ID" "CACHE__DIRECTORY" }}
{{- if hasKey $.Values.settings $name }}{{ fail (printf "settings.%s is the chart's own: see trainer and cache" $name) }}{{ end }}
{{- end }}
{{- $own := dict "LOG__FORMAT" "json" "KAFKA__GROUP_ID" (include "forecaster.group" .) "HTTP__PROBE_PORT" (include "forecaster.probePort" .) }}
{{- range $name, $value := merge dict .Values.settings $own }}
- name: FORECASTER_{{ $name }}
  {{- if and (hasSuffix "SCHEDULE" $name) (eq (toString $value) "false") }}
  value: "off" # YAML reads off without quotes as false
  {{- else }}
  value: {{ include "forecaster.value" $value | quote }}
  {{- end }}
{{- end }}
- name: FORECASTER_CACHE__DIRECTORY
  value: /cache
{{- end }}

{{- define "forecaster.pod" -}}
serviceAccountName: {{ .Release.Name }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.topologySpreadConstraints }}
topologySpreadConstraints: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "forecaster.container" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- $http := include "forecaster.port" . }}
{{- $probes := include "forecaster.probePort" . }}
{{- if or $http $probes }}
{{- $port := ternary "probes" "http" (ne $probes "") }}
ports:
  {{- with $http }}
  - {name: http, containerPort: {{ . }}}
  {{- end }}
  {{- with $probes }}
  - {name: probes, containerPort: {{ . }}}
  {{- end }}
startupProbe:
  httpGet: {path: /livez, port: {{ $port }}}
  periodSeconds: 5
  failureThreshold: 24
livenessProbe:
  httpGet: {path: /livez, port: {{ $port }}}
  periodSeconds: 15
  timeoutSeconds: 5
  failureThreshold: 4
readinessProbe:
  httpGet: {path: /readyz, port: {{ $port }}}
  periodSeconds: 10
  timeoutSeconds: 5
{{- end }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: cache, mountPath: /cache}
  {{- if .Values.secret }}
  - {name: secrets, mountPath: /secrets, readOnly: true}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "forecaster.volumes" -}}
- name: tmp
  emptyDir: {}
{{- if .Values.secret }}
- name: secrets
  secret: {secretName: {{ .Values.secret | quote }}}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
