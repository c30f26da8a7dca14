package explain_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/machinenativeops/weir/explain"
	"github.com/machinenativeops/weir/internal/envoytest"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

const (
	servicesAWorld   = 120
	requestsAService = 25
	worldsVariable   = "WEIR_EXPLAIN_WORLDS" // how many worlds are tried; each has an Envoy of its own
	seedVariable     = "WEIR_EXPLAIN_SEED"   // of the first
)

// TestAgreesWithEnvoy holds what is explained of generated requests, under generated documents, against what a real
// Envoy does with them.
func TestAgreesWithEnvoy(t *testing.T) {
	first, worlds := number(t, seedVariable, 1), number(t, worldsVariable, 2)
	asker := newAsker(t)
	for seed := first; seed < first+worlds; seed++ {
		a := author{rand.New(rand.NewPCG(seed, 0))}
		w := a.world()
		wrong, kinds := asker.disagreements(t, w)
		t.Logf("seed %d: %d requests: %v", seed, len(w.Requests), kinds)
		if len(wrong) == 0 {
			continue
		}
		w.Requests = []request{wrong[0].request}
		less, why := asker.shrink(t, w)
		text, err := json.MarshalIndent(less, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		t.Fatalf("seed %d: %d of the requests: the first is %s: %s\nshrunken: %s\n%s", seed, len(wrong), wrong[0].request.raw(), wrong[0].why, why, text)
	}
}

// TestAgreesWithEnvoyOnSecuredListeners: whatever is asked of a listener that is there only to send clients to https.
func TestAgreesWithEnvoyOnSecuredListeners(t *testing.T) {
	a := author{rand.New(rand.NewPCG(1, 1))}
	w := world{Documents: []any{gateway(object{"name": "http", "port": 15001, "httpsRedirect": 8443}), a.service("s", []any{"s.example"})}}
	for range 500 {
		w.Requests = append(w.Requests, a.request([]string{"s.example", "other.example"}))
	}
	wrong, kinds := newAsker(t).disagreements(t, w)
	for _, d := range wrong {
		t.Errorf("%s: %s", d.request.raw(), d.why)
	}
	if kinds[explain.Redirected] < 300 {
		t.Errorf("few redirects: %v", kinds)
	}
}

func number(t *testing.T, variable string, fallback uint64) uint64 {
	text := os.Getenv(variable)
	if text == "" {
		return fallback
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// world is documents and requests, in the form of JSON so that a shrunken one can be had by leaving parts out.
type world struct {
	Documents []any     `json:"documents"`
	Requests  []request `json:"requests"`
	Inside    bool      `json:"inside"` // asked of a proxy beside a workload
}

type request struct {
	Method  string   `json:"method"`
	Host    string   `json:"host"`
	Path    string   `json:"path"`
	Headers []string `json:"headers"` // NAME: VALUE, with bytes that are no UTF-8 as \xe9
}

// lines gives the headers as they are sent.
func (r request) lines() []string {
	all := make([]string, len(r.Headers))
	for i, h := range r.Headers {
		all[i] = strings.ReplaceAll(h, `\xe9`, "\xe9")
	}
	return all
}

func (r request) raw() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s HTTP/1.1\r\nhost: %s\r\n", r.Method, r.Path, r.Host)
	for _, line := range r.lines() {
		text.WriteString(line + "\r\n")
	}
	return text.String() + "\r\n"
}

func (r request) parsed() explain.Request {
	out := explain.Request{Method: r.Method, Scheme: "http", Authority: r.Host, Path: r.Path, RemoteAddress: netip.MustParseAddr("127.0.0.1")}
	for _, line := range r.lines() {
		name, value, _ := strings.Cut(line, ": ")
		out.Headers = append(out.Headers, explain.Header{Name: name, Value: value})
	}
	return out
}

// asker has what worlds' Envoys send requests to.
type asker struct {
	versions [2]*envoytest.Server
	limits   string // address of the rate limit service
}

// echo is what a version says of the request that it got.
type echo struct {
	Name, Path, Host string
	Headers          http.Header
}

func newAsker(t *testing.T) *asker {
	a := &asker{limits: rateLimits(t)}
	for i := range a.versions {
		name := fmt.Sprintf("v%d", i+1)
		a.versions[i] = envoytest.Upstream(t, name)
		a.versions[i].Handle = func(w http.ResponseWriter, r *http.Request) bool {
			text, err := json.Marshal(echo{name, r.RequestURI, r.Host, r.Header})
			if err != nil {
				t.Error(err)
			}
			w.Header().Set("x-echo", string(text))
			w.Header().Set("x-own", "version")
			return true
		}
	}
	return a
}

type object = map[string]any

// documents gives a world's text, with the ports of the versions, and whether it is good.
func (a *asker) documents(w world) (string, bool) {
	var all []string
	for _, d := range w.Documents {
		text, err := json.Marshal(d)
		if err != nil {
			return "", false
		}
		all = append(all, string(text))
	}
	text := strings.Join(all, "\n---\n")
	for i, v := range a.versions {
		_, port, _ := strings.Cut(v.Address, ":")
		text = strings.ReplaceAll(text, fmt.Sprintf(`"port":%d}`, i+1), `"port":`+port+"}")
	}
	_, problems := policy.Load([]policy.File{{Name: "p.yaml", Data: []byte(text)}}, nil)
	if len(problems) > 0 && len(w.Requests) > 1 {
		panic(fmt.Sprint(problems))
	}
	return text, len(problems) == 0
}

type disagreement struct {
	request request
	why     string
}

// disagreements asks an Envoy, and counts the outcomes.
func (a *asker) disagreements(t *testing.T, w world) ([]disagreement, map[string]int) {
	t.Helper()
	text, ok := a.documents(w)
	if !ok {
		return nil, nil
	}
	m := load(t, text)
	if len(m.Services) == 0 || len(m.Gateways) == 0 {
		return nil, nil // shrunken too far
	}
	p := mesh.Proxy{Role: mesh.RoleGateway, Ref: policy.Ref{Name: "edge"}}
	if w.Inside {
		p = mesh.Proxy{Role: mesh.RoleService, Ref: m.Services[0].Ref}
	}
	to := startEnvoy(t, m, a.limits, p)
	found, kinds := make([]*disagreement, len(w.Requests)), make(map[string]int)
	var mu sync.Mutex
	var workers sync.WaitGroup
	next := make(chan int)
	for range 4 {
		workers.Go(func() {
			for i := range next {
				r := w.Requests[i]
				want, err := explain.Explain(m, &p, r.parsed(), now)
				if err != nil {
					t.Error(err)
					continue
				}
				got := raw(t, to, r.raw())
				if why := differ(want, got); why != "" {
					found[i] = &disagreement{r, why}
				}
				mu.Lock()
				kinds[want.Outcome.Kind]++
				mu.Unlock()
			}
		})
	}
	for i := range w.Requests {
		next <- i
	}
	close(next)
	workers.Wait()
	var all []disagreement
	for _, d := range found {
		if d != nil {
			all = append(all, *d)
		}
	}
	return all, kinds
}

// shrink leaves out what it can of a world whose one request is not agreed on, within a minute.
func (a *asker) shrink(t *testing.T, w world) (world, string) {
	deadline := time.Now().Add(time.Minute)
	wrong, _ := a.disagreements(t, w)
	if len(wrong) == 0 {
		return w, "asked again, they agree"
	}
	why := wrong[0].why
	try := func(less world) bool {
		if time.Now().After(deadline) {
			return false
		}
		wrong, _ := a.disagreements(t, less)
		same := len(wrong) > 0 && about(wrong[0].why) == about(why)
		if same {
			w, why = less, wrong[0].why
		}
		return same
	}
	unnamed := func(d any) bool { // by the disagreement
		name, _ := d.(object)["metadata"].(object)["name"].(string)
		name, _, _ = strings.Cut(name, "-")
		return name != "edge" && !strings.Contains(why, `"`+name+`"`) && !strings.Contains(why, `"`+name+"/")
	}
	named := w
	named.Documents = slices.DeleteFunc(slices.Clone(w.Documents), unnamed)
	try(named)
	for n := len(w.Documents) / 2; n > 0; n /= 2 { // halves, quarters, …
		for i := 0; i+n <= len(w.Documents); {
			less := w
			less.Documents = slices.Delete(slices.Clone(w.Documents), i, i+n)
			if !try(less) {
				i += n
			}
		}
	}
	for slices.ContainsFunc(parts(w), try) {
	}
	return w, why
}

// about is what is not agreed on.
func about(why string) string { what, _, _ := strings.Cut(why, " is explained"); return what }

// parts gives the world without each of its parts, from the top.
func parts(w world) []world {
	text, err := json.Marshal(w)
	if err != nil {
		return nil
	}
	var all []world
	for n := 0; ; n++ {
		var tree any
		if err := json.Unmarshal(text, &tree); err != nil {
			return nil
		}
		left := n
		if _, cut := without(tree, &left); !cut {
			return all
		}
		smaller, err := json.Marshal(tree)
		if err != nil {
			return nil
		}
		var less world
		if json.Unmarshal(smaller, &less) == nil && len(less.Requests) == 1 && less.Requests[0].Method != "" && less.Requests[0].Path != "" {
			all = append(all, less)
		}
	}
}

// without takes the n-th part of a tree away.
func without(tree any, n *int) (any, bool) {
	switch v := tree.(type) {
	case object:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			if *n == 0 {
				delete(v, k)
				return v, true
			}
			*n--
			sub, cut := without(v[k], n)
			if cut {
				v[k] = sub
				return v, true
			}
		}
	case []any:
		for i := range v {
			if *n == 0 {
				return slices.Delete(v, i, i+1), true
			}
			*n--
			sub, cut := without(v[i], n)
			if cut {
				v[i] = sub
				return v, true
			}
		}
	}
	return tree, false
}

// differ says what of an answer is not as explained, or nothing.
func differ(x *explain.Explanation, got answer) string {
	o := x.Outcome
	var wrong []string
	same := func(what, want, is string) {
		if want = strings.ToValidUTF8(want, "\ufffd"); want != is {
			wrong = append(wrong, fmt.Sprintf("%s is explained as %q, and Envoy has %q", what, want, is))
		}
	}
	status, grpc := o.Status, ""
	if o.GRPCStatus != nil {
		status, grpc = 200, strconv.Itoa(*o.GRPCStatus)
	}
	route := ""
	if t := x.Taken; t != nil {
		route = t.Source.Ref().String() + "/" + t.Rule
	}
	switch o.Kind {
	case explain.Preflight: // of which Envoy tells nothing
	case explain.Rejected, explain.Normalised: // where it finds a rule after all, to make its headers' changes to the answer
	default:
		same("the rule", route, got.told("route"))
	}
	sent := got.echo()
	switch {
	case o.Kind != explain.Forwarded:
		same("the status", strconv.Itoa(status), strconv.Itoa(got.status))
		same("the status of gRPC", grpc, got.header.Get("grpc-status"))
	case sent == nil && got.status == 400 && got.told("details") == "via_upstream": // Go's server takes no such path
	case sent == nil && got.told("details") == "no_healthy_upstream" && slices.ContainsFunc(x.Taken.To, func(s explain.Share) bool {
		return s.Percent > 0 && *s.Endpoints == 0 && clusterOf(x.Taken, s) == got.told("cluster")
	}):
	case sent == nil:
		same("the status", "forwarded", strconv.Itoa(got.status)+" "+got.told("details"))
	default:
		differForwarded(x.Taken, x.Request, got, sent, same)
	}
	same("Location", o.Location, got.header.Get("location"))
	if answered(o.Kind) && x.Taken != nil {
		if grpc == "" && got.method != http.MethodHead {
			same("the body", o.Body, got.body)
		}
		if o.ContentType != "" && grpc == "" && !changed(x.Taken, "content-type") {
			same("the content type", o.ContentType, got.header.Get("content-type"))
		}
		want := ""
		if o.RetryAfter > 0 {
			want = strconv.Itoa(o.RetryAfter)
		}
		same("Retry-After", want, got.header.Get("retry-after"))
		same("response headers", fmt.Sprint(applied(nil, x.Taken.ResponseHeaders, "x-a", "x-b")), fmt.Sprint(values(got.header, "x-a", "x-b")))
	}
	if t := x.Taken; t != nil {
		asked := []string{}
		for _, l := range t.Limits {
			if l.Applies && l.Scope == "global" && (o.Kind != explain.Limited || o.Status == 503) && o.Kind != explain.Preflight {
				asked = append(asked, askedText(l))
			}
		}
		told := got.header.Values("x-asked")
		slices.Sort(asked)
		slices.Sort(told)
		same("what is asked about limits", strings.Join(asked, "\n"), strings.Join(told, "\n"))
		permitted := strings.HasSuffix(t.CORS, "is allowed")
		same("whether the origin is allowed", strconv.FormatBool(permitted), strconv.FormatBool(got.header.Get("access-control-allow-origin") != ""))
	}
	if len(wrong) == 0 {
		return ""
	}
	text, err := json.Marshal(x)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s\nEnvoy: %d %s, %v\nexplained: %s", strings.Join(wrong, "; "), got.status, got.told("details"), got.header, text)
}

func answered(kind string) bool {
	return kind == explain.Redirected || kind == explain.Responded || kind == explain.Maintenance
}

func changed(t *explain.Taken, name string) bool {
	return slices.ContainsFunc(t.ResponseHeaders, func(c explain.Change) bool { return strings.EqualFold(c.Name, name) })
}

// clusterOf names the cluster of a share.
func clusterOf(t *explain.Taken, s explain.Share) string {
	if t.LoadTest != "" {
		return s.Subset + "@loadtest"
	}
	return s.Subset
}

func differForwarded(t *explain.Taken, r explain.Seen, got answer, sent *echo, same func(what, want, is string)) {
	i := slices.IndexFunc(t.To, func(s explain.Share) bool { return s.Percent > 0 && clusterOf(t, s) == got.told("cluster") })
	if i < 0 {
		same("the version", fmt.Sprint(t.To), got.told("cluster"))
		return
	}
	if s := t.Sticky; s != nil && s.Chosen != "" {
		same("the version of this user", s.Chosen, t.To[i].Subset)
	}
	name, _, _ := strings.Cut(got.header.Get("set-cookie"), "=")
	cookie := ""
	if t.Sticky != nil {
		cookie, _, _ = strings.Cut(t.Sticky.Cookie, ",")
	}
	same("the new user's cookie", cookie, name)
	if _, version, ok := strings.Cut(t.To[i].Subset, "/"); ok {
		same("the version that answers", version, sent.Name)
	}
	path, host := r.Path, r.Authority
	if t.Path != "" {
		path = t.Path
	}
	if t.Hostname != "" {
		host = t.Hostname
	}
	same("the path sent on", path, sent.Path)
	same("the host sent on", host, sent.Host)
	before := make(http.Header)
	for _, h := range r.Headers {
		before.Add(h.Name, h.Value)
	}
	same("request headers", fmt.Sprint(applied(before, slices.Concat(t.RequestHeaders, t.To[i].RequestHeaders), "x-a", "x-b", "baggage")), fmt.Sprint(values(sent.Headers, "x-a", "x-b", "baggage")))
	own := http.Header{"X-Own": {"version"}}
	same("response headers", fmt.Sprint(applied(own, slices.Concat(t.ResponseHeaders, t.To[i].ResponseHeaders), "x-a", "x-b", "x-own")), fmt.Sprint(values(got.header, "x-a", "x-b", "x-own")))
}

// applied makes changes in order, and gives the values of the headers named.
func applied(h http.Header, changes []explain.Change, names ...string) []string {
	h = h.Clone()
	if h == nil {
		h = make(http.Header)
	}
	for _, c := range changes {
		switch c.Op {
		case "add":
			h.Add(c.Name, c.Value)
		case "set":
			h.Set(c.Name, c.Value)
		default:
			h.Del(c.Name)
		}
	}
	return values(h, names...)
}

func values(h http.Header, names ...string) []string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = strings.Join(h.Values(name), "|")
	}
	return all
}

func askedText(l explain.Limit) string {
	text := "limit=" + l.ID
	for _, e := range l.Key {
		text += " " + e.Name + "=" + e.Value
	}
	return text
}
