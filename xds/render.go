package xds

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/machinenativeops/weir/internal/parallel"
)

// Render writes a view for people, a list of resources a type, as YAML or JSON. Route configurations are whole, with
// their virtual hosts inside.
func Render(v View, asJSON bool) ([]byte, error) {
	all, err := v.plain()
	if err != nil {
		return nil, err
	}
	if !asJSON {
		return yamlOf(all)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	err = enc.Encode(all)
	return out.Bytes(), err
}

// plain is a view as maps and lists, by type.
func (v View) plain() (map[string][]any, error) {
	bare, err := v.routesWith(nil)
	if err != nil {
		return nil, err
	}
	all := make(map[string][]any)
	for kind, resources := range v.with(bare) {
		if len(resources) == 0 {
			continue
		}
		if all[kind], err = plains(resources); err != nil {
			return nil, err
		}
	}
	hosts := v.hosts()
	for i, r := range bare {
		if r == v[RouteType][i] { // it has them
			continue
		}
		list, err := plains(hosts[r.Name])
		if err != nil {
			return nil, err
		}
		c := all[RouteType][i].(map[string]any)
		own, _ := c["virtual_hosts"].([]any)
		if list = append(own, list...); len(list) > 0 {
			c["virtual_hosts"] = list
		}
	}
	return all, nil
}

func plains(resources []*Resource) ([]any, error) {
	all, errs := make([]any, len(resources)), make([]error, len(resources))
	parallel.Runs(len(resources), 64, func(from, to int) {
		for i := from; i < to; i++ {
			all[i], errs[i] = plain(resources[i])
		}
	})
	return all, cmp.Or(errs...)
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
