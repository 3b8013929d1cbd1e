{{/*
The namespaces that policies here are about. The first half matters: host
endpoints are in no namespace, and "not in" alone would select them too.
*/}}
{{- define "subjects" -}}
has(projectcalico.org/name) && projectcalico.org/name not in { {{- range $i, $n := .Values.exceptions.namespaces }}{{ if $i }}, {{ end }}"{{ $n }}"{{ end -}} }
{{- end -}}
