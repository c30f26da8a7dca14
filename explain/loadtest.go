package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// marked says whether the request is load that an earlier hop has marked for such a rule.
func (v *view) marked(r *mesh.Rule) bool {
	if r.LoadTest == nil {
		return false
	}
	m := r.Marked()
	failed, _ := v.match(&m, "match")
	return failed == ""
}

// loadTest is how load is kept apart, and marked for the next hop.
func (x *explainer) loadTest(r *mesh.Rule) {
	if r.LoadTest == nil {
		return
	}
	t := x.out.Taken
	t.LoadTest = "apart from real requests"
	if u := r.LoadTest.Until; u != nil {
		t.LoadTest += ", until " + u.String()
	}
	if n := r.LoadTest.Requests; n > 0 {
		t.LoadTest += fmt.Sprintf(", at most %d requests in all", n)
	}
	t.LoadTest += stops(r.LoadTest.StopWhen)
	if x.seen.marked(r) {
		return
	}
	mark := Change{"set", mesh.BaggageHeader, mesh.LoadTestMember}
	lines := x.seen.lines(mesh.BaggageHeader)
	if slices.ContainsFunc(lines, func(line string) bool { return line != "" }) {
		mark.Value = strings.Join(lines, ",") + "," + mark.Value
	}
	t.RequestHeaders = append(t.RequestHeaders, mark)
}

// stops says what stops a load test.
func stops(w *policy.StopWhen) string {
	if w == nil {
		return ""
	}
	var all []string
	if w.Errors != nil {
		all = append(all, fmt.Sprintf("more than %v %% fail", *w.Errors))
	}
	if w.MeanLatency != nil {
		all = append(all, fmt.Sprintf("they take more than %s on average", w.MeanLatency.Text()))
	}
	return fmt.Sprintf("; stops when, of %d or more real requests within %s, %s", *w.MinRequests, w.Window.Text(), strings.Join(all, " or "))
}
