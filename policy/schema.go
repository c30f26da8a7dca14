package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// enumerations are the fields with a fixed set of words, by kind and generic path.
var enumerations = map[string][]string{
	"Mesh.spec.accessLog.to":                      {"otlp"},
	"Gateway.spec.listeners[].protocol":           listenerProtocols,
	"Gateway.spec.listeners[].tls.minVersion":     tlsVersions,
	"Service.spec.protocol":                       protocols,
	"Service.spec.loadBalancing.policy":           balancingPolicies,
	"Service.spec.compression.algorithms[]":       compressionAlgorithms,
	"Route.spec.rules[].compression.algorithms[]": compressionAlgorithms,
	"Service.spec.retries.on[]":                   retryOn,
	"Route.spec.rules[].retries.on[]":             retryOn,
	"Route.spec.rules[].match.methods[]":          methods,
	"Route.spec.rules[].redirect.scheme":          schemes,
	"Route.spec.rules[].rateLimit.algorithm":      algorithms,
	"Route.spec.rules[].rateLimit.scope":          scopes,
	"Sampling.spec.atSource":                      atSource,
	"RateLimit.spec.limits[].algorithm":           algorithms,
	"RateLimit.spec.scope":                        limitScopes,
	"RateLimit.spec.onError":                      {"allow", "deny"},
	"Retention.spec.archive.compression":          {"gzip"},
}

// Schema gives the JSON Schema (draft 2020-12) of a kind, for editors. It describes the shape; Load checks the rest.
func Schema(kind string) ([]byte, error) {
	build, ok := newSpec[kind]
	if !ok {
		return nil, fmt.Errorf("schema of %s: no such kind", kind)
	}
	g := schemaOf{kind: kind}
	document := map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"title":   kind,
		"type":    "object",
		"properties": map[string]any{
			"apiVersion": map[string]any{"const": APIVersion},
			"kind":       map[string]any{"const": kind},
			"metadata":   g.of(reflect.TypeFor[Metadata](), "metadata"),
			"spec":       g.of(reflect.TypeOf(build()).Elem(), "spec"),
		},
		"required":             []string{"kind", "metadata", "spec"},
		"additionalProperties": false,
	}
	text, err := json.MarshalIndent(document, "", "  ")
	return append(text, '\n'), err
}

type schemaOf struct{ kind string }

func (g schemaOf) of(t reflect.Type, path string) map[string]any {
	switch t {
	case reflect.TypeFor[Duration]():
		return map[string]any{"type": "string", "pattern": `^([0-9]+d|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+|0)$`}
	case reflect.TypeFor[Period]():
		return map[string]any{"type": "string", "pattern": `^(second|minute|hour|day|week|month|year|[0-9]+d|([0-9]+(\.[0-9]+)?(ms|s|m|h))+)$`}
	case reflect.TypeFor[Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case reflect.TypeFor[Size]():
		return map[string]any{"type": []string{"string", "integer"}, "pattern": `^[0-9]+(B|KB|MB|GB|KiB|MiB|GiB)?$`}
	case reflect.TypeFor[StatusCondition]():
		return map[string]any{"type": "string", "pattern": `^(>=|<=|>|<|=) *[1-5][0-9][0-9]$`}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return g.of(t.Elem(), path)
	case reflect.Struct:
		return g.object(t, path)
	case reflect.Slice:
		return map[string]any{"type": "array", "items": g.of(t.Elem(), path+"[]")}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": g.of(t.Elem(), path+".*")}
	}
	one := map[string]any{"type": map[reflect.Kind]string{
		reflect.String: "string", reflect.Int: "integer", reflect.Float64: "number", reflect.Bool: "boolean",
	}[t.Kind()]}
	if words, ok := enumerations[g.kind+"."+path]; ok {
		one["enum"] = words
	}
	return one
}

func (g schemaOf) object(t reflect.Type, path string) map[string]any {
	properties := make(map[string]any)
	var required []string
	fields := fieldsOf(t)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if _, later := laterFields[g.kind+"."+path+"."+name]; later {
			continue
		}
		f := t.FieldByIndex(fields[name])
		properties[name] = g.of(f.Type, path+"."+name)
		if !strings.Contains(f.Tag.Get("yaml"), "omitempty") {
			required = append(required, name)
		}
	}
	one := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if required != nil {
		one["required"] = required
	}
	return one
}
