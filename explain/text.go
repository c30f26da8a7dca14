package explain

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/machinenativeops/weir/policy"
)

// Text is the explanation for people.
func (x *Explanation) Text() string {
	var p page
	l := x.Listener
	p.line("enters", "%s, listener %s (%s, port %d)", l.Proxy, l.Name, l.Protocol, l.Port)
	for _, note := range x.Notes {
		p.line("note", "%s", note)
	}
	if g := x.Request.Given; g != "" {
		p.line("path", "%s, which is %s normalised", x.Request.Path, g)
	}
	if h := x.Host; h != nil {
		of := ""
		if h.Pattern != h.Host {
			of = " by " + h.Pattern
		}
		p.line("host", "%s is of the service %s%s", h.Host, h.Service, of)
	}
	for _, r := range x.Rules {
		p.pair("rules", r.Rule, r.verdict())
	}
	if x.Taken != nil {
		x.Taken.text(&p)
	}
	p.line("ends", "%s", x.Outcome.text())
	return p.String()
}

// page is lines under headings.
type page struct{ lines []line }

type line struct{ heading, name, text string }

func (p *page) line(heading, format string, args ...any) {
	p.pair(heading, "", fmt.Sprintf(format, args...))
}

func (p *page) pair(heading, name, text string) {
	p.lines = append(p.lines, line{heading, name, text})
}

// String aligns what is under one heading, which is written once.
func (p *page) String() string {
	headings, names := 0, make(map[string]int)
	for _, l := range p.lines {
		headings = max(headings, utf8.RuneCountInString(l.heading))
		names[l.heading] = max(names[l.heading], utf8.RuneCountInString(l.name))
	}
	var b strings.Builder
	last := ""
	for _, l := range p.lines {
		heading := l.heading
		if heading == last {
			heading = ""
		}
		last = l.heading
		fmt.Fprintf(&b, "%-*s  ", headings, heading)
		if width := names[l.heading]; width > 0 {
			fmt.Fprintf(&b, "%-*s  ", width, l.name)
		}
		b.WriteString(l.text + "\n")
	}
	return b.String()
}

func (t Tried) verdict() string {
	switch {
	case !t.Matches:
		return "no: " + t.Reason
	case t.Reason != "":
		return "takes it " + t.Reason
	default:
		return "takes it"
	}
}

// text says what a rule does in the order in which Envoy does it.
func (t *Taken) text(p *page) {
	if t.Maintenance != "" {
		p.line("maintenance", "%s", t.Maintenance)
	}
	if t.CORS != "" {
		p.line("CORS", "%s", t.CORS)
	}
	for i := range t.Limits {
		p.line("limits", "%s", t.Limits[i].text())
	}
	if t.MaxRequestBytes > 0 {
		p.line("body", "of at most %d bytes, or 413", t.MaxRequestBytes)
	}
	if f := t.Fault; f != nil {
		p.line("fault", "%s", f.text())
	}
	for _, c := range t.RequestHeaders {
		p.line("request", "%s", c.text())
	}
	if t.Path != "" {
		p.line("request", "path %s", t.Path)
	}
	if t.Hostname != "" {
		p.line("request", "host %s", t.Hostname)
	}
	if t.LoadTest != "" {
		p.line("load test", "%s", t.LoadTest)
	}
	for _, s := range t.To {
		p.pair("goes to", s.Subset, s.text())
		for _, c := range s.RequestHeaders {
			p.pair("goes to", "", "request: "+c.text())
		}
		for _, c := range s.ResponseHeaders {
			p.pair("goes to", "", "response: "+c.text())
		}
	}
	if t.Sticky != nil {
		p.line("sticky", "%s", t.Sticky.text())
	}
	for _, m := range t.Mirrors {
		p.pair("mirrored to", m.Subset, percent(m.Percent)+", for at most "+m.Timeout)
	}
	if t.Timeout != "" {
		p.line("timeout", "%s", t.Timeout)
	}
	if r := t.Retries; r != nil {
		p.line("retries", "%s", r.text())
	}
	for _, c := range t.ResponseHeaders {
		p.line("response", "%s", c.text())
	}
	if len(t.Compression) > 0 {
		p.line("response", "compressed as %s, where the caller accepts it", strings.Join(t.Compression, ", "))
	}
}

func percent(p float64) string { return strconv.FormatFloat(p, 'g', 4, 64) + " %" }

func (c Change) text() string {
	if c.Op == "remove" {
		return "remove " + c.Name
	}
	return c.Op + " " + c.Name + ": " + c.Value
}

func (l *Limit) text() string {
	rate := fmt.Sprintf("%s %s: %d a %s", l.Scope, l.ID, l.Requests, l.Per)
	if l.Per == "" {
		rate = fmt.Sprintf("%s %s: %d in all", l.Scope, l.ID, l.Requests)
	}
	if l.Algorithm == policy.SlidingWindow || l.Algorithm == policy.FixedWindow {
		rate += ", " + strings.ReplaceAll(l.Algorithm, "_", " ")
	} else if l.Burst != l.Requests && l.Requests > 0 {
		rate += fmt.Sprintf(", bursts of %d", l.Burst)
	}
	if l.Cost != "" {
		rate += ", each for " + l.Cost
	}
	if l.PerConnection {
		rate += ", each connection"
	}
	if l.FairShare {
		rate += ", a part of it at each proxy"
	}
	if l.Shadow {
		rate += ", counted only"
	}
	if !l.Applies {
		return rate + "; not this request: " + l.Reason
	}
	if len(l.Key) == 0 {
		return rate + ", for all together"
	}
	key := make([]string, len(l.Key))
	for i, e := range l.Key {
		key[i] = fmt.Sprintf("%s=%q", e.Name, e.Value)
	}
	return rate + ", for " + strings.Join(key, " ")
}

func (f *Fault) text() string {
	if !f.Applies {
		return "not this request: " + f.Reason
	}
	var all []string
	if f.Delay != "" {
		all = append(all, fmt.Sprintf("%s are delayed by %s", percent(f.DelayPercent), f.Delay))
	}
	if f.Abort != "" {
		all = append(all, fmt.Sprintf("%s are answered with %s", percent(f.AbortPercent), f.Abort))
	}
	return strings.Join(all, ", ")
}

func (s Share) text() string {
	out := percent(s.Percent)
	switch {
	case s.Endpoints == nil:
		out += ", the endpoints that DNS gives"
	case *s.Endpoints == 0 && s.Percent > 0:
		out += ", no endpoints: 503"
	case *s.Endpoints == 1:
		out += ", 1 endpoint"
	default:
		out += fmt.Sprintf(", %d endpoints", *s.Endpoints)
	}
	return out
}

func (s *Sticky) text() string {
	out := "by " + s.By
	switch {
	case s.Cookie != "":
		out = "a new user, who is given the cookie " + s.Cookie
	case s.Value == "":
		out += ", which is absent: by chance"
	}
	if s.Chosen != "" {
		out += fmt.Sprintf(": %q is at %s", s.Value, s.Chosen)
	}
	return out
}

func (r *Retries) text() string {
	on := slices.Clone(r.On)
	for _, code := range r.Codes {
		on = append(on, strconv.Itoa(code))
	}
	out := fmt.Sprintf("%d, on %s", r.Attempts, strings.Join(on, ", "))
	if r.PerTry != "" {
		out += "; " + r.PerTry + " a try"
		if r.Hedged {
			out += ", after which the next begins beside it"
		}
	}
	if r.Backoff != "" {
		out += "; after " + r.Backoff + " or more"
	}
	return out
}

func (o Outcome) text() string {
	status := strconv.Itoa(o.Status)
	if o.GRPCStatus != nil {
		status = fmt.Sprintf("gRPC status %d", *o.GRPCStatus)
	}
	if o.Reason != "" {
		status += ": " + o.Reason
	}
	switch o.Kind {
	case Forwarded:
		return "sent on"
	case Redirected:
		return status + ", to " + o.Location
	case Responded, Maintenance:
		if o.ContentType != "" {
			status += ", " + o.ContentType
		}
		if o.Body != "" {
			status += ", " + strconv.Quote(o.Body)
		}
		if o.RetryAfter > 0 {
			status += fmt.Sprintf(", Retry-After %d", o.RetryAfter)
		}
	}
	return status
}
