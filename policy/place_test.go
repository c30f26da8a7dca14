package policy

import "testing"

func TestFieldsAreFoundWhereTheyWereWritten(t *testing.T) {
	text := "kind: Service\nmetadata: {name: s}\nspec:\n  timeout: 3s\n  endpoints:\n    static:\n      - {address: 127.0.0.1, port: 1}\n"
	set, problems := Load([]File{{Name: "s.yaml", Data: []byte(text)}}, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for path, want := range map[string]struct {
		Place
		written bool
	}{
		"spec.timeout":                  {Place{4, 12}, true},
		"spec.endpoints.static[0].port": {Place{7, 36}, true},
		"spec.endpoints.static[0].zone": {Place{7, 9}, false},
		"spec.loadBalancing.policy":     {Place{4, 3}, false},
		"metadata.namespace":            {Place{2, 11}, false},
		"nothing.of.the.kind":           {Place{1, 1}, false},
	} {
		at, written := set.Services[0].Origin.Place(path)
		if at != want.Place || written != want.written {
			t.Errorf("%s: %v, %t; want %v, %t", path, at, written, want.Place, want.written)
		}
	}
	if at, written := set.Mesh.Origin.Place("spec.tracing"); written || at.Column != 1 {
		t.Errorf("what nobody wrote is at %v, %t", at, written)
	}
	again, _ := Load([]File{{Name: "s.yaml", Data: []byte("kind: Service\nmetadata: {name: s}\nspec: {}\n")}}, set)
	if at, _ := again.Services[0].Origin.Place("spec.timeout"); at.Line != 4 {
		t.Errorf("the last good version has lost its places: %v", at)
	}
}

func TestPlacesOfWhatCantBeReadByItself(t *testing.T) {
	text := "kind: Mesh\nmetadata: {name: &m m}\n---\nkind: Service\nmetadata:\n  name: *m\nspec: {endpoints: {none: true}}\n"
	set, problems := Load([]File{{Name: "s.yaml", Data: []byte(text)}}, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for path, want := range map[string]Place{"metadata.name": {2, 18}, "spec.endpoints.none": {7, 26}, "spec.timeout": {7, 7}} {
		if at, _ := set.Services[0].Origin.Place(path); at != want {
			t.Errorf("%s: %v, want %v", path, at, want)
		}
	}
}
