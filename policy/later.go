package policy

// laterKinds and laterFields are of the policy language but not of this version. Accepting them would promise what
// does not happen, so they are errors that say so.
var laterKinds = map[string]bool{"Rollout": true, "Access": true}

var laterFields = func() map[string]string {
	fields := make(map[string]string)
	for _, f := range []string{
		"Mesh.spec.trustDomain", "Mesh.spec.mtls", "Mesh.spec.access", "Mesh.spec.networks", "Mesh.spec.clusters",
		"Mesh.spec.locality", "Mesh.spec.tracing.propagate", "Mesh.spec.tracing.baggage",
		"Mesh.spec.tracing.tags[].cookie", // Envoy 1.40 can read a cookie in routes, not in tags
		"Service.spec.clusterSplit", "Service.spec.endpoints.kubernetes",
		"Service.spec.endpoints.static[].cluster",
		"Route.spec.rules[].match.from",
	} {
		fields[f] = "this version of Weir does not support this field yet: remove it"
	}
	return fields
}()

// laterValues are words of an enumeration that this version does not know what to do with.
var laterValues = map[string][]string{
	"protocol":         {"tcp"},
	"listenerProtocol": {"passthrough"},
}
