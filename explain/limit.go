package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// Limit is a limit on the requests of a rule.
type Limit struct {
	ID            string     `json:"id"`
	Source        policy.Key `json:"source"`
	Scope         string     `json:"scope"` // global or local
	Applies       bool       `json:"applies"`
	Reason        string     `json:"reason,omitempty"` // why not
	Key           []Entry    `json:"key,omitempty"`    // that this request counts under
	Requests      int        `json:"requests"`
	Per           string     `json:"per,omitempty"` // a unit or a duration; "": in all
	Algorithm     string     `json:"algorithm"`     // gcra, sliding_window or fixed_window
	Burst         int        `json:"burst"`
	Cost          string     `json:"cost,omitempty"`          // what a request counts for, unless it is one
	PerConnection bool       `json:"perConnection,omitempty"` // of a local limit
	FairShare     bool       `json:"fairShare,omitempty"`     // of a local limit: requests is of all proxies together
	Shadow        bool       `json:"shadow,omitempty"`
	OnError       string     `json:"onError,omitempty"` // of a global limit that can't be asked about: allow or deny
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
		ID: l.ID, Source: l.Source, Scope: "local", Requests: l.Requests, Per: string(l.Per), Algorithm: l.Algorithm, Burst: l.Burst,
		Cost: l.Cost.Text(), PerConnection: l.PerConnection, FairShare: l.FairShare, Shadow: l.Shadow,
	}
	v.key(&out, l.By, l.Except)
	return out
}

func (v *view) global(l mesh.GlobalLimit) Limit {
	out := Limit{
		ID: l.ID, Source: l.Source, Scope: "global", Requests: int(l.Requests), Per: l.PerName(), Algorithm: l.Algorithm, Burst: int(l.Burst),
		Cost: l.Cost.Text(), Shadow: l.Shadow, OnError: "allow",
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
		lines := v.lines(b.Header)
		switch {
		case !b.Any() && !v.isOf(b):
			l.Key, l.Reason = nil, v.notOf(b)
			return
		case b.Exact != "" || b.Share:
			l.Key = append(l.Key, Entry{b.Header, b.Form()})
		case len(lines) > 0: // the first counts
			if b.Pattern() {
				l.Key = append(l.Key, Entry{b.Header, b.Form()})
			}
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
		if !v.isOf(b) {
			return false
		}
	}
	return true
}

// isOf says whether a header has a value of the form that a limit is for, in any of its lines.
func (v *view) isOf(b policy.LimitBy) bool {
	return slices.ContainsFunc(v.lines(b.Header), func(value string) bool {
		switch {
		case b.Prefix != "":
			return strings.HasPrefix(value, b.Prefix)
		case b.Suffix != "":
			return strings.HasSuffix(value, b.Suffix)
		case b.Regex != "":
			return matchRegex(b.Regex, value)
		default:
			return value == b.Exact
		}
	})
}

func (v *view) notOf(b policy.LimitBy) string {
	if b.Exact != "" {
		return "header " + v.headerMismatch(policy.NamedMatch{Name: b.Header, Exact: &b.Exact})
	}
	return fmt.Sprintf("want header %s, got %q", b.Text(), v.lines(b.Header))
}

func exceptionText(e mesh.Exception) string {
	all := make([]string, len(e))
	for i, b := range e {
		all[i] = b.Text()
	}
	return strings.Join(all, " and ")
}
