package lint

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

var (
	// idempotent are the methods of which a request may be done twice (RFC 9110, 9.2.2).
	idempotent = []string{"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"}
	// reached are the conditions of a retry that hold where a service may have acted on the request already. The others
	// say that it has not seen it, or has refused it.
	reached = []string{"5xx", "gateway-error", "reset", "retriable-4xx", "cancelled", "deadline-exceeded", "internal"}
	// refused are the statuses by which a service says that it has not acted.
	refused = []int{425, 429}
	// slow are the conditions that hold where a try has taken longer than perTry.
	slow = []string{"5xx", "gateway-error", "reset"}
)

const limit = "match methods [GET, HEAD, OPTIONS, PUT, DELETE]"

// handling warns of timeouts and retries: those that a rule has at the rule, and those of the service, which all other
// rules share, once.
func (l *linter) handling(d *policy.Document[policy.ServiceSpec]) {
	service := pageOf(l, "Service", d)
	route, hasRoute := l.routes[d.Ref().String()]
	warned := make(map[string]bool)
	for i, r := range l.service(d.Ref().String()).Rules {
		if len(r.To) == 0 {
			continue // it answers, and sends nothing on
		}
		own, path := page{}, ""
		if hasRoute {
			own, path = pageOf(l, "Route", route), fmt.Sprintf("spec.rules[%d]", i)
		}
		for _, c := range complaints(r) {
			if hasRoute && slices.ContainsFunc(c.fields, func(f string) bool { return own.written(path + "." + f) }) {
				own.warn(c.name, path+"."+own.first(path, c.fields), "%s", c.message)
				continue
			}
			message := fmt.Sprintf("%s (the rule %s)", c.message, r.Name)
			if !warned[c.name+c.fields[0]] {
				service.warn(c.name, "spec."+service.first("spec", c.fields), "%s", message)
			}
			warned[c.name+c.fields[0]] = true
		}
	}
}

// first is the first of the fields that is written, or else the last one.
func (p page) first(path string, fields []string) string {
	for _, f := range fields {
		if p.written(path + "." + f) {
			return f
		}
	}
	return fields[len(fields)-1]
}

// complaint is a warning about how a rule's requests are handled, at the first of the fields that is written.
type complaint struct {
	name    string
	fields  []string
	message string
}

func complaints(r *mesh.Rule) []complaint {
	var all []complaint
	all = append(all, unsafe(r)...)
	if hedged(r) && !onlyIdempotent(r.Match.Methods) {
		all = append(all, complaint{UnsafeRetry, []string{"hedge"}, "a POST may be done twice: a hedge sends it again while the service may be acting on it; " +
			limit + ", or write hedge: {onPerTryTimeout: false}"})
	}
	if message := short(r.Timeout, r.Retries); message != "" {
		all = append(all, complaint{ShortTimeout, []string{"timeout", "retries.perTry", "retries"}, message})
	}
	return all
}

// unsafe tells of retries that may do a request twice that must not be.
func unsafe(r *mesh.Rule) []complaint {
	if r.Retries == nil || onlyIdempotent(r.Match.Methods) {
		return nil
	}
	var words, codes []string
	for _, on := range r.Retries.On {
		if slices.Contains(reached, on) {
			words = append(words, on)
		}
	}
	for _, code := range r.Retries.Codes {
		if !slices.Contains(refused, code) {
			codes = append(codes, strconv.Itoa(code))
		}
	}
	const message = "a POST may be done twice: %s may come after the service has acted on the request; %s, or write %s"
	var all []complaint
	if len(words) > 0 {
		all = append(all, complaint{UnsafeRetry, []string{"retries.on", "retries"}, fmt.Sprintf(message,
			strings.Join(words, ", "), limit, "on: [connect-failure, refused-stream, reset-before-request]")})
	}
	if len(codes) > 0 {
		all = append(all, complaint{UnsafeRetry, []string{"retries.codes"}, fmt.Sprintf(message,
			strings.Join(codes, ", "), limit, "codes: [425, 429] at most")})
	}
	return all
}

func hedged(r *mesh.Rule) bool {
	return r.Hedge != nil && r.Hedge.OnPerTryTimeout && r.Retries != nil && r.Retries.PerTry != nil
}

func onlyIdempotent(methods []string) bool {
	return len(methods) > 0 && !slices.ContainsFunc(methods, func(m string) bool { return !slices.Contains(idempotent, m) })
}

// short says why a timeout leaves no time for the tries that it should.
func short(timeout time.Duration, r *policy.Retries) string {
	if timeout == 0 || r == nil || r.PerTry == nil {
		return ""
	}
	perTry, tries := time.Duration(*r.PerTry), time.Duration(*r.Attempts+1)
	if perTry >= timeout {
		return fmt.Sprintf("perTry (%s) is no less than the timeout (%s), which ends the first try and all else: write a perTry below it", perTry, timeout)
	}
	if !slices.ContainsFunc(r.On, func(on string) bool { return slices.Contains(slow, on) }) {
		return "" // a try that is too slow is the last one anyhow
	}
	waits := backoff(r)
	needs := perTry*tries + waits
	if needs <= timeout {
		return ""
	}
	mend := fmt.Sprintf("write timeout: %s", policy.Duration(needs.Round(time.Millisecond)))
	if fits := ((timeout - waits) / tries).Truncate(time.Millisecond); fits > 0 {
		mend += fmt.Sprintf(", or perTry: %s", policy.Duration(fits))
	}
	return fmt.Sprintf("the timeout (%s) may end before the last of %d tries, which take up to %s each and %s between them, %s in all: %s",
		timeout, tries, perTry, waits, needs, mend)
}

// backoff is the longest that Envoy waits between a request's tries: the base before the first retry, twice as long
// before each one after it, and at most ten times as long.
func backoff(r *policy.Retries) time.Duration {
	base := time.Duration(*r.Backoff)
	var sum time.Duration
	for i, wait := 0, base; i < *r.Attempts; i, wait = i+1, min(2*wait, 10*base) {
		sum += wait
	}
	return sum
}
