package diff

import (
	"fmt"
	"io"
	"strings"

	"github.com/machinenativeops/weir/mesh"
)

// Text writes a report for people.
func (r *Report) Text(w io.Writer) {
	if r.Equal {
		fmt.Fprintln(w, "no change in effect")
		return
	}
	r.words(w)
	if len(r.Changes) == 0 {
		fmt.Fprintln(w, "no rule, share, limit or endpoint changes; what proxies are sent does")
	}
	if len(r.Proxies) == 0 {
		fmt.Fprintln(w, "\nno proxy is sent anything")
		return
	}
	fmt.Fprintln(w)
	for i := range r.Proxies {
		r.Proxies[i].text(w)
	}
}

func (r *Report) words(w io.Writer) {
	var last Change
	for _, c := range r.Changes {
		switch {
		case c.Subject != last.Subject:
			fmt.Fprintf(w, "%s%s\n  %s", lineEnd(last), c.Subject, c)
		case c.isShare() && last.isShare() && c.What == last.What: // the shares of a rule are one line
			fmt.Fprintf(w, ", %s", c.value())
		default:
			fmt.Fprintf(w, "\n  %s", c)
		}
		last = c
	}
	fmt.Fprint(w, lineEnd(last))
}

// lineEnd ends the line of a change, if there is one.
func lineEnd(last Change) string {
	if last.Kind == "" {
		return ""
	}
	return "\n"
}

func (c Change) isShare() bool { return strings.HasPrefix(c.Field, shareOf) }

// most is how much of a value a line has.
const most = 200

func short(s string) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + fmt.Sprintf("… (%d bytes)", len(s))
}

// String gives a change in a line, without its subject.
func (c Change) String() string {
	head := c.What
	switch c.Kind {
	case Added:
		return said(strings.TrimSpace(head+" added"), c.To)
	case Removed:
		return said(strings.TrimSpace(head+" removed"), c.From)
	case Moved:
		return fmt.Sprintf("%s moved: %s → %s", head, short(c.From), short(c.To))
	}
	if head == "" {
		return c.value()
	}
	return head + ": " + c.value()
}

func said(what, detail string) string {
	if detail == "" {
		return what
	}
	return what + ": " + short(detail)
}

// value is what a field was and is.
func (c Change) value() string {
	from, to := c.From, c.To
	if len(from) > most && len(to) > most { // of long texts, where they begin to differ
		i := 0
		for i < min(len(from), len(to)) && from[i] == to[i] {
			i++
		}
		from, to = window(from, i), window(to, i)
	}
	return fmt.Sprintf("%s %s → %s", strings.TrimPrefix(c.Field, shareOf), short(from), short(to))
}

// window is what stands around a place in a text.
func window(s string, at int) string {
	begin, end := max(0, at-most/4), min(len(s), at+most/4)
	text := s[begin:end]
	if begin > 0 {
		text = "… " + text
	}
	if end < len(s) {
		text += " …"
	}
	return strings.ToValidUTF8(text, "")
}

func (g *Proxies) text(w io.Writer) {
	switch g.Kind {
	case Added:
		fmt.Fprintf(w, "%s: a new proxy, with %s\n", g.who(), plural(len(g.Resources), "resource"))
		return
	case Removed:
		fmt.Fprintf(w, "%s: no document has such a proxy any more; what it runs stays as it is\n", g.who())
		return
	}
	fmt.Fprintf(w, "%s\n", g.who())
	for _, r := range g.Resources {
		fmt.Fprintf(w, "  %-8s%s %s\n", r.Kind, r.Type, r.Name)
	}
	for _, l := range g.Drains {
		fmt.Fprintf(w, "  Envoy drains the connections of the listener %s.\n", l)
	}
}

// named is how many proxies are named one by one.
const named = 5

// who names the proxies, or says that they are all of their role.
func (g *Proxies) who() string {
	var all []string
	for _, role := range []mesh.Role{mesh.RoleGateway, mesh.RoleService} {
		var names []string
		for _, p := range g.Proxies {
			if strings.HasPrefix(p, string(role)+" ") {
				names = append(names, p)
			}
		}
		switch n := len(names); {
		case n > 1 && n == g.of[role]:
			all = append(all, fmt.Sprintf("all %d %s", n, map[mesh.Role]string{mesh.RoleGateway: "gateways", mesh.RoleService: "services' proxies"}[role]))
		case n > named:
			all = append(all, append(names[:named-1:named-1], fmt.Sprintf("%d more %ss", n-named+1, role))...)
		default:
			all = append(all, names...)
		}
	}
	return strings.Join(all, ", ")
}
