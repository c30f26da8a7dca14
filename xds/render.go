package xds

import (
	"bytes"
	"encoding/json"
	"fmt"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
)

// Render writes a view for people, a list of resources a type, as YAML or JSON. Route configurations are whole, with
// their virtual hosts inside.
func Render(v View, asJSON bool) ([]byte, error) {
	v, err := v.Whole()
	if err != nil {
		return nil, err
	}
	all := make(map[string][]any)
	for kind, resources := range v {
		for _, r := range resources {
			one, err := plain(r)
			if err != nil {
				return nil, err
			}
			all[kind] = append(all[kind], one)
		}
	}
	var out bytes.Buffer
	if asJSON {
		enc := json.NewEncoder(&out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		err := enc.Encode(all)
		return out.Bytes(), err
	}
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	err = enc.Encode(all)
	return out.Bytes(), err
}

// plain is a resource as maps and lists.
func plain(r *Resource) (any, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(&anypb.Any{TypeUrl: r.Type, Value: r.Body})
	if err != nil {
		return nil, fmt.Errorf("render %s: %w", r.Name, err)
	}
	var one map[string]any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&one); err != nil {
		return nil, fmt.Errorf("render %s: %w", r.Name, err)
	}
	delete(one, "@type")
	return whole(one), nil
}

// whole turns numbers into integers where they are, which reads better than 1.048576e+06.
func whole(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, one := range v {
			v[name] = whole(one)
		}
	case []any:
		for i, one := range v {
			v[i] = whole(one)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		n, _ := v.Float64() // what protojson wrote is a number
		return n
	}
	return v
}
