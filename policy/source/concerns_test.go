package source

import "testing"

func TestWhatConcernsPaths(t *testing.T) {
	for _, c := range []struct {
		path, name string
		want       bool
	}{
		{"/etc/weir/policy", "/etc/weir/policy", true},
		{"/etc/weir/policy", "/etc/weir/policy/team/a.yaml", true},
		{"/etc/weir/policy/", "/etc/weir/policy/team", true},
		{"/etc/weir/policy", "/etc/weir/policy/..data", true},
		{"/etc/weir/policy", "/etc/weir/policy/.a.yaml.swp", false},
		{"/etc/weir/policy", "/etc/weir/policy.log", false},
		{"/etc/weir/policy", "/etc/weir/other", false},
		{"/tmp/a.yaml", "/tmp/a.yaml", true},
		{"/tmp/a.yaml", "/tmp/..data", true},
		{"/tmp/a.yaml", "/tmp/b.yaml", false},
		{"a.yaml", "./a.yaml", true},
		{"a.yaml", "./b.yaml", false},
	} {
		if got := concerns([]string{c.path}, c.name); got != c.want {
			t.Errorf("of %s, %s concerns: %v, want %v", c.path, c.name, got, c.want)
		}
	}
}
