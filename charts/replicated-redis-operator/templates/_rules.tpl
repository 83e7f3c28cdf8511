{{- /*
What the operator may do in a namespace that it watches, and no more: tests run it with just this and look for "forbidden".
What it watches it does not ask for again, so "get" is mostly missing.
*/}}
{{- define "operator.rules" -}}
# Watches them; reads one again whose record it could not write; takes an annotation off when it has heard its wish; writes the
# status.
- apiGroups: [replicated-redis.io]
  resources: [replicatedredises]
  verbs: [get, list, watch, patch]
- apiGroups: [replicated-redis.io]
  resources: [replicatedredises/status]
  verbs: [update]
# Its objects, by server-side apply; their owner reference deletes them. Secrets: also those that hold users' passwords.
- apiGroups: [""]
  resources: [configmaps, secrets, services, serviceaccounts]
  verbs: [list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch]
# Deletes one, and leaves its pods, to make it anew when a field that cannot be changed has changed.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
# Asks for more room; says with whom they go.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, watch, patch]
# Role labels.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch]
# What only some datastores ask for: spec.networkPolicy and spec.monitoring.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors, prometheusrules]
  verbs: [list, watch, create, patch, delete]
# Rolling updates.
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
