{{/* The namespace that the code looks in; see api/src/names.rs. */}}
{{- define "evergreen.namespace" -}}
evergreen-system
{{- end }}

{{- define "evergreen.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Labels that never change: what selectors select. Called with a dict of root and component. */}}
{{- define "evergreen.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "evergreen.labels" -}}
{{ include "evergreen.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Image of a component. Called with a dict of root and image. */}}
{{- define "evergreen.image" -}}
{{- $tag := .root.Values.image.tag | default .root.Chart.AppVersion -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end }}{{ .image.repository }}:{{ $tag }}
{{- end }}

{{- define "evergreen.otlp" -}}
{{- if .Values.telemetry.endpoint -}}
{{ .Values.telemetry.endpoint }}
{{- else if .Values.plane.enabled -}}
http://{{ include "evergreen.fullname" . }}-plane.{{ include "evergreen.namespace" . }}.svc:4317
{{- end -}}
{{- end }}

{{- define "evergreen.controllerTls" -}}
{{ .Values.siteTls.controllerSecret | default (printf "%s-controller-tls" (include "evergreen.fullname" .)) }}
{{- end }}

{{- define "evergreen.agentTls" -}}
{{ .Values.siteTls.agentSecret | default (printf "%s-agent-tls" (include "evergreen.fullname" .)) }}
{{- end }}

{{/* Scheduling of a component's pods. Called with its values. */}}
{{- define "evergreen.scheduling" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* policy/v1 came with Kubernetes 1.21; policy/v1beta1 went with 1.25. */}}
{{- define "evergreen.budgetApi" -}}
{{- if semverCompare ">=1.21-0" .Capabilities.KubeVersion.Version -}}policy/v1{{- else -}}policy/v1beta1{{- end -}}
{{- end }}

{{/* Directories of the host that the agent reads, each once, as JSON. */}}
{{- define "evergreen.hostFiles" -}}
{{- $files := .Values.agent.hostFiles -}}
{{- concat $files.filesystems $files.certificates (compact (list $files.runtimeSocket)) | uniq | toJson -}}
{{- end }}

{{/* A pod that runs `evergreen check ...` once. Called with a dict of root, name and args. */}}
{{- define "evergreen.checkPod" -}}
serviceAccountName: {{ include "evergreen.fullname" .root }}-check
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
restartPolicy: Never
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
containers:
  - name: check
    image: {{ include "evergreen.image" (dict "root" .root "image" .root.Values.cli.image) }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    args: {{- toYaml .args | nindent 6 }}
    # What it found is the message of the pod: kubectl describe shows it.
    terminationMessagePolicy: FallbackToLogsOnError
    resources:
      requests: {cpu: 10m, memory: 32Mi}
      limits: {memory: 128Mi}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
{{- end }}
