package e2e_test

import (
	"strings"
	"testing"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// TestCookieMatches: A/B by cookie, among other cookies, in quotes and more than once.
func TestCookieMatches(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	w := newWorld(t, strings.Replace(shop(v1.Address, v2.Address, 1, 0), "  rules:\n", `  rules:
    - {name: exact, match: {path: {exact: /exact}, cookies: [{name: group, exact: beta}]}, to: [{version: v2}]}
    - {name: prefix, match: {path: {exact: /prefix}, cookies: [{name: group, prefix: be}]}, to: [{version: v2}]}
    - {name: regex, match: {path: {exact: /regex}, cookies: [{name: group, regex: "be.*|z"}]}, to: [{version: v2}]}
    - {name: present, match: {path: {exact: /present}, cookies: [{name: group, present: true}]}, to: [{version: v2}]}
    - {name: absent, match: {path: {exact: /absent}, cookies: [{name: group, present: false}]}, to: [{version: v2}]}
    - {name: both, match: {path: {exact: /both}, cookies: [{name: group, exact: beta}, {name: seen, present: true}]}, to: [{version: v2}]}
`, 1))
	for _, c := range []struct{ path, cookie, want string }{
		{"/exact", "", "v1"},
		{"/exact", "group=beta", "v2"},
		{"/exact", "a=b; group=beta; c=d", "v2"},
		{"/exact", "a=b;group=beta;c=d", "v2"},
		{"/exact", `group="beta"`, "v2"},
		{"/exact", "group=betas", "v1"},
		{"/exact", "Group=beta", "v1"},
		{"/exact", "agroup=beta", "v1"},
		{"/exact", "group=beta; group=alpha", "v2"}, // the first counts
		{"/exact", "group=alpha; group=beta", "v1"},
		{"/prefix", "group=better", "v2"},
		{"/prefix", "group=alpha", "v1"},
		{"/regex", "group=z", "v2"},
		{"/regex", "group=zz", "v1"}, // the whole value
		{"/present", "group=", "v2"},
		{"/present", "group=x", "v2"},
		{"/present", "groups=x", "v1"},
		{"/absent", "groups=x", "v2"},
		{"/absent", "group=x", "v1"},
		{"/both", "group=beta; seen=1", "v2"},
		{"/both", "group=beta", "v1"},
	} {
		r := request{host: checkout.host, path: c.path}
		if c.cookie != "" {
			r.headers = map[string]string{"Cookie": c.cookie}
		}
		if got := w.mustDo(r); got.body != c.want {
			t.Errorf("%s with cookies %q: answered by %q (%d), want %q", c.path, c.cookie, got.body, got.status, c.want)
		}
	}
}
