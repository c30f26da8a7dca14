package explain

import (
	"fmt"
	"strings"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// Limit is a limit on the requests of a rule.
type Limit struct {
	ID       string     `json:"id"`
	Source   policy.Key `json:"source"`
	Scope    string     `json:"scope"` // global or local
	Applies  bool       `json:"applies"`
	Reason   string     `json:"reason,omitempty"` // why not
	Key      []Entry    `json:"key,omitempty"`    // that this request counts under
	Requests int        `json:"requests"`
	Per      string     `json:"per,omitempty"` // second, minute, hour or day; "": in all
	Burst    int        `json:"burst"`
	Shadow   bool       `json:"shadow,omitempty"`
	OnError  string     `json:"onError,omitempty"` // of a global limit that can't be asked about: allow or deny
}

// Entry is a part of a limit's key.
type Entry struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// refusal is how a limit that lets no request through answers, or nil.
func (l *Limit) refusal() *Outcome {
	if l.Applies && l.Requests == 0 && !l.Shadow {
		return &Outcome{Kind: Limited, Status: 429, Reason: l.ID + " lets no request through"}
	}
	return nil
}

func (v *view) local(l mesh.LocalLimit) Limit {
	out := Limit{
		ID: l.ID, Source: l.Source, Scope: "local", Requests: l.Requests, Per: l.Per, Burst: l.Burst, Shadow: l.Shadow,
	}
	v.key(&out, l.By, l.Except)
	return out
}

func (v *view) global(l mesh.GlobalLimit) Limit {
	out := Limit{
		ID: l.ID, Source: l.Source, Scope: "global", Requests: int(l.Requests), Burst: int(l.Burst), Shadow: l.Shadow, OnError: "allow",
	}
	for _, unit := range []string{"second", "minute", "hour", "day"} {
		if mesh.Unit(unit) == l.Per {
			out.Per = unit
		}
	}
	if l.DenyOnError {
		out.OnError = "deny"
	}
	v.key(&out, l.By, l.Except)
	return out
}

// key finds what a request counts under. A header that is absent is left out of the key, so that all requests without it
// share one.
func (v *view) key(l *Limit, by []policy.LimitBy, except []mesh.Exception) {
	for _, b := range by {
		if b.RemoteAddress {
			l.Key = append(l.Key, Entry{"remote_address", v.remote})
			continue
		}
		lines, want := v.lines(b.Header), policy.NamedMatch{Name: b.Header, Exact: &b.Exact}
		switch {
		case b.Exact != "" && !v.header(want):
			l.Key, l.Reason = nil, "header "+v.headerMismatch(want)
			return
		case b.Exact != "":
			l.Key = append(l.Key, Entry{b.Header, b.Exact})
		case len(lines) > 0: // the first counts
			l.Key = append(l.Key, Entry{b.Header, mesh.LimitValue(lines[0])})
		}
	}
	for _, e := range except {
		if v.has(e) {
			l.Key, l.Reason = nil, "left to the limit of the same document for "+exceptionText(e)
			return
		}
	}
	l.Applies = true
}

func (v *view) has(e mesh.Exception) bool {
	for _, b := range e {
		if !v.header(policy.NamedMatch{Name: b.Header, Exact: &b.Exact}) {
			return false
		}
	}
	return true
}

func exceptionText(e mesh.Exception) string {
	all := make([]string, len(e))
	for i, b := range e {
		all[i] = fmt.Sprintf("%s %q", b.Header, b.Exact)
	}
	return strings.Join(all, " and ")
}
