package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	commonratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/machinenativeops/weir/internal/servers"
)

const (
	limitOK   = ratelimitsvcv3.RateLimitResponse_OK
	limitOver = ratelimitsvcv3.RateLimitResponse_OVER_LIMIT
)

// rivals are envoyproxy/ratelimit, with a Redis, and weir ratelimit, which have read the same files.
type rivals struct {
	peer, weir ratelimitsvcv3.RateLimitServiceClient
	dir        string // of the files
	weirHTTP   string
	redis      *servers.Redis
}

// newRivals starts both with the files, by name; env is more of the peer's environment, and args are more of weir's, which
// counts in the same Redis if that is shared.
func newRivals(t *testing.T, files map[string]string, env, args []string, shared bool) *rivals {
	t.Helper()
	root := t.TempDir()
	r := &rivals{dir: filepath.Join(root, "ratelimit", "config"), redis: servers.RunRedis(t)}
	must(t, os.MkdirAll(r.dir, 0o700))
	for name, text := range files {
		must(t, os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600))
	}
	if shared { // without leases: what they tell of a question that is refused is as far as a replica knows
		args = append(args, "--redis", "redis://"+r.redis.Address, "--redis-timeout", "1s", "--redis-lease", "0")
	}
	ports := freePorts(t, 5)
	peer := servers.StartProcess(t, servers.Command{
		Name: "ratelimit", Path: servers.MustTool(t, "ratelimit"),
		Env: append([]string{
			"RUNTIME_ROOT=" + root, "RUNTIME_SUBDIRECTORY=ratelimit", "RUNTIME_WATCH_ROOT=false", "MERGE_DOMAIN_CONFIG=true",
			"HOST=127.0.0.1", "PORT=" + port(ports[0]), "GRPC_HOST=127.0.0.1", "GRPC_PORT=" + port(ports[1]), "DEBUG_HOST=127.0.0.1", "DEBUG_PORT=" + port(ports[2]),
			"BACKEND_TYPE=redis", "REDIS_SOCKET_TYPE=tcp", "REDIS_URL=" + r.redis.Address, "USE_STATSD=false", "DISABLE_STATS=true", "LOG_LEVEL=error",
		}, env...),
	})
	weir := servers.StartProcess(t, servers.Command{ // whose keys in Redis begin with weir:
		Name: "weir", Path: weirBinary,
		Args: append([]string{"ratelimit", "--config", r.dir, "--address", ports[3], "--http-address", ports[4]}, args...),
	})
	r.weirHTTP = "http://" + ports[4]
	must(t, peer.WaitHTTP(t.Context(), "http://"+ports[0]+"/healthcheck"))
	must(t, weir.WaitHTTP(t.Context(), r.weirHTTP+"/readyz"))
	r.peer, r.weir = limitClient(t, ports[1]), limitClient(t, ports[3])
	return r
}

func limitClient(t *testing.T, address string) ratelimitsvcv3.RateLimitServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return ratelimitsvcv3.NewRateLimitServiceClient(conn)
}

// both asks both.
func (r *rivals) both(t *testing.T, q *ratelimitsvcv3.RateLimitRequest) (peer, weir *ratelimitsvcv3.RateLimitResponse) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	peer, err := r.peer.ShouldRateLimit(ctx, q)
	if err != nil {
		t.Fatalf("envoyproxy/ratelimit: %v\n%s", err, prototext.Format(q))
	}
	weir, err = r.weir.ShouldRateLimit(ctx, q)
	if err != nil {
		t.Fatalf("weir: %v\n%s", err, prototext.Format(q))
	}
	return peer, weir
}

// rule is a descriptor of a configuration file, as both read it.
type rule struct {
	Key            string     `json:"key"`
	Value          string     `json:"value,omitempty"`
	Limit          *ruleLimit `json:"rate_limit,omitempty"`
	Rules          []*rule    `json:"descriptors,omitempty"`
	Shadow         bool       `json:"shadow_mode,omitempty"`
	Quota          bool       `json:"quota_mode,omitempty"`
	DetailedMetric bool       `json:"detailed_metric,omitempty"`
	ValueToMetric  bool       `json:"value_to_metric,omitempty"`
	Share          bool       `json:"share_threshold,omitempty"`
}

type ruleLimit struct {
	Unit      string     `json:"unit,omitempty"`
	Requests  uint32     `json:"requests_per_unit"`
	Unlimited bool       `json:"unlimited,omitempty"`
	Name      string     `json:"name,omitempty"`
	Replaces  []ruleName `json:"replaces,omitempty"`
}

type ruleName struct {
	Name string `json:"name"`
}

// world of limits that is made up by a seed.
type madeLimits struct {
	*rand.Rand
	rules []*rule
	names int
}

var limitUnits = []string{"second", "minute", "hour", "day", "week", "month", "year"}

func (m *madeLimits) chance(of float64) bool { return m.Float64() < of }

func (m *madeLimits) rulesAt(depth int, path string) []*rule {
	var out []*rule
	seen := map[string]bool{}
	for range 3 + m.IntN(5) {
		x := &rule{Key: fmt.Sprintf("%sk%d", path, m.IntN(4)), Value: []string{"", "", "v0", "v1", "v*", "w*", "*"}[m.IntN(7)]}
		if m.chance(0.05) {
			x.Key, x.Value = x.Key+"*", ""
		}
		if seen[x.Key+" "+x.Value] {
			continue
		}
		seen[x.Key+" "+x.Value] = true
		if depth > 0 && m.chance(0.5) {
			x.Rules = m.rulesAt(depth-1, path+"d")
		}
		if x.Rules == nil || m.chance(0.5) {
			x.Limit = m.limit()
		}
		x.Shadow, x.Quota = m.chance(0.15), m.chance(0.15)
		x.DetailedMetric, x.ValueToMetric = m.chance(0.1), m.chance(0.1)
		x.Share = strings.Contains(x.Value, "*") && m.chance(0.5) || strings.Contains(x.Key, "*") && m.chance(0.5)
		out = append(out, x)
	}
	return out
}

func (m *madeLimits) limit() *ruleLimit {
	m.names++
	l := &ruleLimit{Requests: uint32([]int{0, 1, 2, 3, 4, 5, 8, 20}[m.IntN(8)]), Unit: limitUnits[m.IntN(len(limitUnits))]}
	if m.chance(0.1) {
		l.Unlimited, l.Unit = true, ""
	}
	if m.chance(0.5) {
		l.Name = fmt.Sprintf("n%d", m.names)
	}
	if m.chance(0.15) {
		if other := fmt.Sprintf("n%d", 1+m.IntN(m.names)); other != l.Name {
			l.Replaces = append(l.Replaces, ruleName{other})
		}
	}
	return l
}

func (m *madeLimits) question(domain string) *ratelimitsvcv3.RateLimitRequest {
	q := &ratelimitsvcv3.RateLimitRequest{Domain: domain}
	if m.chance(0.2) {
		q.HitsAddend = uint32(m.IntN(4))
	}
	seen := map[string]bool{} // two descriptors of one counter are another test's
	for range 1 + m.IntN(3) {
		d := m.descriptor()
		if top := d.GetEntries()[0].GetKey(); !seen[top] {
			seen[top] = true
			q.Descriptors = append(q.Descriptors, d)
		}
	}
	if m.chance(0.1) { // a check; alone, since what it finds may differ
		q.Descriptors = q.Descriptors[:1]
		q.Descriptors[0].HitsAddend = wrapperspb.UInt64(0)
	}
	return q
}

func (m *madeLimits) descriptor() *commonratelimitv3.RateLimitDescriptor {
	d := &commonratelimitv3.RateLimitDescriptor{}
	if m.chance(0.15) {
		d.HitsAddend = wrapperspb.UInt64(uint64(1 + m.IntN(4)))
	}
	add := func(key, value string) {
		d.Entries = append(d.Entries, &commonratelimitv3.RateLimitDescriptor_Entry{Key: key, Value: value})
	}
	if m.chance(0.1) { // a limit of its own, one for each value
		unit := []int{0, 1, 2, 3, 5, 6}[m.IntN(6)] // protocols have no week
		add("own", limitUnits[unit])
		d.Limit = &commonratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: uint32(unit+3) % 5, Unit: typev3.RateLimitUnit(typev3.RateLimitUnit_value[strings.ToUpper(limitUnits[unit])])}
		return d
	}
	for rules := m.rules; len(rules) > 0; {
		x := rules[m.IntN(len(rules))]
		value := []string{"v0", "v1", "v2", "w0", "w1", "x", "", "v"}[m.IntN(8)]
		switch {
		case strings.HasSuffix(x.Value, "*"):
			value = strings.TrimSuffix(x.Value, "*") + []string{"0", "1", ""}[m.IntN(3)]
		case x.Value != "":
			value = x.Value
		}
		key := strings.Replace(x.Key, "*", []string{"", "1"}[m.IntN(2)], 1)
		if m.chance(0.03) {
			key = "unknown"
		}
		add(key, value)
		if rules = x.Rules; m.chance(0.4) {
			break
		}
	}
	return d
}

// find gives the rule of a descriptor, nil if there is none, and what names its counter.
func (m *madeLimits) find(d *commonratelimitv3.RateLimitDescriptor) (found *rule, counter string) {
	rules := m.rules
	for i, e := range d.GetEntries() {
		value := e.GetValue()
		x := match(rules, e)
		if x != nil {
			if pattern := x.Value; x.Share {
				if pattern == "" {
					pattern = x.Key
				}
				value = pattern
			}
			rules = x.Rules
			if i == len(d.GetEntries())-1 && x.Limit != nil {
				found = x
			}
		} else {
			rules = nil
		}
		counter += fmt.Sprintf("%q=%q ", e.GetKey(), value)
	}
	if d.GetLimit() != nil {
		return &rule{Limit: &ruleLimit{Requests: d.GetLimit().GetRequestsPerUnit()}}, counter
	}
	return found, counter
}

func match(rules []*rule, e *commonratelimitv3.RateLimitDescriptor_Entry) *rule {
	for _, fits := range []func(x *rule) bool{
		func(x *rule) bool { return x.Key == e.GetKey() && x.Value != "" && x.Value == e.GetValue() },
		func(x *rule) bool {
			key, star := strings.CutSuffix(x.Key, "*")
			prefix, stars := strings.CutSuffix(x.Value, "*")
			return star && strings.HasPrefix(e.GetKey(), key) || stars && x.Key == e.GetKey() && strings.HasPrefix(e.GetValue(), prefix)
		},
		func(x *rule) bool { return x.Key == e.GetKey() && x.Value == "" },
	} {
		if i := slices.IndexFunc(rules, fits); i >= 0 {
			return rules[i]
		}
	}
	return nil
}

// TestSameAnswersAsEnvoyproxyRatelimit asks both the same, by configurations and questions that are made up by seeds. The
// answers are the same in every field, but for what docs/envoyproxy-ratelimit.md says is different on purpose; then they
// differ by just that, and what it did to a counter lets that counter be asked no more.
func TestSameAnswersAsEnvoyproxyRatelimit(t *testing.T) {
	const seeds, questions = 60, 80
	files := map[string]string{}
	made := make([]*madeLimits, seeds)
	for seed := range seeds {
		made[seed] = &madeLimits{Rand: rand.New(rand.NewPCG(uint64(seed), 5))}
		made[seed].rules = made[seed].rulesAt(2, "")
		domain := fmt.Sprintf("s%d", seed)
		text, err := json.Marshal(map[string]any{"domain": domain, "descriptors": made[seed].rules})
		must(t, err)
		files[domain+".yaml"] = string(text)
	}
	for _, store := range []string{"memory", "redis"} {
		t.Run(store, func(t *testing.T) {
			// Of the two ways in which the peer counts, each store has one.
			env := []string{"LIMIT_RESPONSE_HEADERS_ENABLED=true"}
			if store == "redis" {
				env = append(env, "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT=true")
			}
			r := newRivals(t, files, env, []string{"--response-headers"}, store == "redis")
			c := &comparison{t: t, rivals: r, stopping: store == "redis"}
			for seed := range seeds {
				c.made = &madeLimits{Rand: rand.New(rand.NewPCG(uint64(seed), 6)), rules: made[seed].rules}
				c.apart = map[string]bool{}
				c.run(fmt.Sprintf("s%d", seed), questions, seed%10 == 0)
			}
			t.Logf("%d descriptors compared", c.compared)
			if c.compared < seeds*questions/4 {
				t.Errorf("only %d descriptors were compared", c.compared)
			}
		})
	}
}

// comparison is of one domain.
type comparison struct {
	t        *testing.T
	rivals   *rivals
	made     *madeLimits
	stopping bool
	apart    map[string]bool // counters that may differ from now on
	compared int             // descriptors
}

// run asks so many questions. Where a second ended between the two answers they may be of different windows, and are not
// compared. With over the middle lies in another second than the beginning.
func (c *comparison) run(domain string, questions int, over bool) {
	for i := range questions {
		if over && i == questions/2 {
			time.Sleep(time.Second)
		}
		q := c.made.question(domain)
		if slices.ContainsFunc(q.GetDescriptors(), func(d *commonratelimitv3.RateLimitDescriptor) bool {
			_, counter := c.made.find(d)
			return c.apart[counter]
		}) {
			continue
		}
		now := time.Now()
		if in := now.Nanosecond(); in < 10e6 || in > 600e6 {
			time.Sleep(time.Until(now.Truncate(time.Second).Add(time.Second + 10*time.Millisecond)))
			now = time.Now()
		}
		peer, weir := c.rivals.both(c.t, q)
		if end := time.Now(); end.Unix() != now.Unix() || end.Nanosecond() > 990e6 {
			for _, d := range q.GetDescriptors() {
				_, counter := c.made.find(d)
				c.apart[counter] = true
			}
			continue
		}
		before := proto.Clone(peer)
		if wrong := c.differs(q, peer, weir); wrong != "" {
			c.t.Fatalf("%s\n\nquestion %d: %s\nenvoyproxy/ratelimit: %s\nweir: %s", wrong, i, prototext.Format(q), prototext.Format(before), prototext.Format(weir))
		}
	}
}

// differs changes the peer's answer to what weir's must be, and says how that differs.
func (c *comparison) differs(q *ratelimitsvcv3.RateLimitRequest, peer, weir *ratelimitsvcv3.RateLimitResponse) string {
	if len(peer.GetStatuses()) != len(weir.GetStatuses()) {
		return "another number of statuses"
	}
	var over, overall, quotas, quotasOver int
	asItIs := true       // nothing is changed
	shadowAtEnd := false // whether it was over can't be told from its answer
	for i, d := range q.GetDescriptors() {
		st, found := peer.GetStatuses()[i], weir.GetStatuses()[i]
		x, _ := c.made.find(d)
		if x == nil || st.GetCurrentLimit() == nil {
			continue
		}
		if st.GetDurationUntilReset() == nil { // a quota that is over, which newer versions of the peer tell as weir does
			asItIs = false
			st.Code, st.DurationUntilReset = limitOver, found.GetDurationUntilReset()
		}
		// A check of what has just been used up.
		if d.GetHitsAddend() != nil && d.GetHitsAddend().GetValue() == 0 && st.GetCode() == limitOK && st.GetLimitRemaining() == 0 && !x.Shadow {
			asItIs = false
			st.Code = limitOver
		}
		if x.Quota {
			quotas++
		}
		if st.GetCode() == limitOver {
			over++
			if x.Quota {
				quotasOver++
			} else {
				overall++
			}
		}
		shadowAtEnd = shadowAtEnd || x.Shadow && st.GetLimitRemaining() == 0
	}
	peer.OverallCode = limitOK
	if overall > 0 || quotas > 0 && quotas == quotasOver {
		peer.OverallCode = limitOver
	}
	// Weir counts what passes, and the peer everything, or if it is told so what none is over of.
	weirCounts, peerCounts := peer.GetOverallCode() == limitOK, !c.stopping || over == 0
	for i, d := range q.GetDescriptors() {
		st, found := peer.GetStatuses()[i], weir.GetStatuses()[i]
		x, counter := c.made.find(d)
		hits := max(q.GetHitsAddend(), 1)
		if d.GetHitsAddend() != nil {
			hits = uint32(d.GetHitsAddend().GetValue())
		}
		switch {
		case x == nil || st.GetCurrentLimit() == nil || st.GetCode() == limitOver:
			continue
		case x.Shadow && st.GetLimitRemaining() == 0 && weirCounts != peerCounts:
			st.LimitRemaining = min(found.GetLimitRemaining(), hits)
		case weirCounts && !peerCounts, c.stopping && shadowAtEnd && weirCounts && st.GetLimitRemaining() == found.GetLimitRemaining()+hits:
			st.LimitRemaining -= min(hits, st.GetLimitRemaining())
		case peerCounts && !weirCounts:
			st.LimitRemaining += hits
		default:
			continue
		}
		asItIs = false
		c.apart[counter] = true
	}
	if !asItIs { // headers tell of what is different
		peer.ResponseHeadersToAdd = weir.GetResponseHeadersToAdd()
	}
	c.compared += len(q.GetDescriptors())
	if proto.Equal(peer, weir) {
		return ""
	}
	return "want: " + prototext.Format(peer)
}

// askLimits makes a question of descriptors, each of KEY=VALUE entries with commas between them.
func askLimits(domain string, descriptors ...string) *ratelimitsvcv3.RateLimitRequest {
	q := &ratelimitsvcv3.RateLimitRequest{Domain: domain}
	for _, text := range descriptors {
		d := &commonratelimitv3.RateLimitDescriptor{}
		for entry := range strings.SplitSeq(text, ",") {
			key, value, _ := strings.Cut(entry, "=")
			d.Entries = append(d.Entries, &commonratelimitv3.RateLimitDescriptor_Entry{Key: key, Value: value})
		}
		q.Descriptors = append(q.Descriptors, d)
	}
	return q
}

// TestDifferentFromEnvoyproxyRatelimitOnPurpose has a case for each row of docs/envoyproxy-ratelimit.md that says so: what
// both answer to the last question. Limits are by year, so that no window ends but one.
func TestDifferentFromEnvoyproxyRatelimitOnPurpose(t *testing.T) {
	files := map[string]string{"a.yaml": `
domain: shop
descriptors:
- {key: one, rate_limit: {unit: year, requests_per_unit: 1}}
- {key: five, rate_limit: {unit: year, requests_per_unit: 5}}
- {key: shadow, shadow_mode: true, rate_limit: {unit: year, requests_per_unit: 0}}
- {key: quota, quota_mode: true, rate_limit: {unit: year, requests_per_unit: 0}}
- {key: path, value: /api/*/x, rate_limit: {unit: year, requests_per_unit: 0}}
- key: tenant
  rate_limit: {unit: year, requests_per_unit: 2}
  descriptors:
  - {key: user, rate_limit: {unit: year, requests_per_unit: 2}}
`}
	ask := func(descriptors ...string) *ratelimitsvcv3.RateLimitRequest { return askLimits("shop", descriptors...) }
	hits := func(n uint64, negative bool, descriptor string) *ratelimitsvcv3.RateLimitRequest {
		q := ask(descriptor)
		q.GetDescriptors()[0].HitsAddend, q.GetDescriptors()[0].IsNegativeHits = wrapperspb.UInt64(n), negative
		return q
	}
	type questions = []*ratelimitsvcv3.RateLimitRequest
	type test struct {
		ask        questions
		peer, weir string // the codes and what remains
	}
	run := func(t *testing.T, r *rivals, tests map[string]test) {
		for name, c := range tests {
			t.Run(name, func(t *testing.T) {
				var peer, weir *ratelimitsvcv3.RateLimitResponse
				for _, q := range c.ask {
					peer, weir = r.both(t, q)
				}
				if got := inShort(peer); got != c.peer {
					t.Errorf("envoyproxy/ratelimit: %s, want %s", got, c.peer)
				}
				if got := inShort(weir); got != c.weir {
					t.Errorf("weir: %s, want %s", got, c.weir)
				}
			})
		}
	}
	r := newRivals(t, files, nil, nil, false)
	run(t, r, map[string]test{
		"a refused question uses nothing up":   {questions{ask("one=a", "five=a"), ask("one=a", "five=a"), ask("five=a")}, "OK: OK 2", "OK: OK 3"},
		"one counter twice":                    {questions{ask("one=b", "one=b"), ask("one=b")}, "OVER: OVER 0", "OK: OK 0"},
		"a check of what is used up":           {questions{ask("one=c"), hits(0, false, "one=c")}, "OK: OK 0", "OVER: OVER 0"},
		"keys do not collide":                  {questions{ask("tenant=d_user_e"), ask("tenant=d_user_e"), ask("tenant=d,user=e")}, "OVER: OVER 0", "OK: OK 1"},
		"negative hits":                        {questions{hits(3, false, "five=f"), hits(2, true, "five=f")}, "OK: OK 0", "OK: OK 4"},
		"all quotas are over":                  {questions{ask("quota=g", "five=g")}, "OK: OK 0, OK 4", "OVER: OVER 0, OK 5"},
		"stars in the middle":                  {questions{ask("path=/api/h/x")}, "OK: OK 0", "OVER: OVER 0"},
		"a shadow is no reason to use up less": {questions{ask("shadow=i", "five=i"), ask("five=i")}, "OK: OK 3", "OK: OK 3"},
	})
	t.Run("no domain, no descriptors", func(t *testing.T) {
		for _, q := range []*ratelimitsvcv3.RateLimitRequest{ask("one=a"), ask()} {
			if len(q.GetDescriptors()) > 0 {
				q.Domain = ""
			}
			_, peer := r.peer.ShouldRateLimit(t.Context(), q)
			_, weir := r.weir.ShouldRateLimit(t.Context(), q)
			if grpcstatus.Code(peer) != codes.Unknown || grpcstatus.Code(weir) != codes.InvalidArgument {
				t.Errorf("envoyproxy/ratelimit: %v; weir: %v", peer, weir)
			}
		}
	})
	t.Run("a limit without a unit", func(t *testing.T) { // last: it ends the peer
		q := ask("own=x")
		q.GetDescriptors()[0].Limit = &commonratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 5}
		if _, err := r.peer.ShouldRateLimit(t.Context(), q); grpcstatus.Code(err) != codes.Unavailable {
			t.Errorf("envoyproxy/ratelimit: %v", err)
		}
		answer, err := r.weir.ShouldRateLimit(t.Context(), q)
		must(t, err)
		if got := inShort(answer); got != "OK: OK 4" {
			t.Errorf("weir: %s", got)
		}
	})
	run(t, newRivals(t, files, []string{"STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT=true"}, nil, true), map[string]test{
		"stopping: a refused question uses nothing up":   {questions{ask("one=a", "five=a"), ask("one=a", "five=a"), ask("five=a")}, "OK: OK 3", "OK: OK 3"},
		"stopping: a shadow is no reason to use up less": {questions{ask("shadow=i", "five=i"), ask("five=i")}, "OK: OK 4", "OK: OK 3"},
		"stopping: a quota is no reason to use up less":  {questions{ask("quota=i", "five=j"), ask("five=j")}, "OK: OK 4", "OK: OK 4"},
	})
}

func inShort(r *ratelimitsvcv3.RateLimitResponse) string {
	code := func(c ratelimitsvcv3.RateLimitResponse_Code) string { return strings.TrimSuffix(c.String(), "_LIMIT") }
	statuses := make([]string, len(r.GetStatuses()))
	for i, st := range r.GetStatuses() {
		statuses[i] = fmt.Sprint(code(st.GetCode()), " ", st.GetLimitRemaining())
	}
	return code(r.GetOverallCode()) + ": " + strings.Join(statuses, ", ")
}
