package e2e_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// kube gives a Kubernetes Service on an upstream, with its EndpointSlice and the Pod behind it.
func kube(t *testing.T, service, version, address string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: shop}
spec: {selector: {app: %[1]s}, ports: [{name: http, port: 80, targetPort: web}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-%[2]s, namespace: shop, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{name: http, port: %[4]s}]
endpoints: [{addresses: [%[3]s], targetRef: {kind: Pod, name: %[1]s-%[2]s}}]
---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s-%[2]s, namespace: shop, labels: {app: %[1]s, version: %[2]s}}
`, service, version, host, port)
}

// imported gives a world of what an import makes of objects.
func imported(t *testing.T, objects string) *world {
	t.Helper()
	file := filepath.Join(t.TempDir(), "objects.yaml")
	if err := os.WriteFile(file, []byte(objects), 0o600); err != nil {
		t.Fatal(err)
	}
	documents, err := exec.Command(weirBinary, "import", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, string(documents))
	w.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return w
}

// telling starts an upstream that also answers with the host and the path that it was asked for.
func telling(t *testing.T, name string) *envoytest.Server {
	t.Helper()
	s := envoytest.Upstream(t, name)
	s.Handle = func(rw http.ResponseWriter, r *http.Request) bool {
		rw.Header().Set("Got", r.Host+r.RequestURI)
		return false
	}
	return s
}

// asked is a request, and what comes of it.
type asked struct {
	request
	want string // STATUS NAME, or STATUS and one header more: STATUS NAME Header=value
}

func (w *world) comesOf(c asked) {
	w.t.Helper()
	got := w.mustDo(c.request)
	words := strings.SplitN(c.want, " ", 3)
	said := fmt.Sprint(got.status)
	if len(words) > 1 {
		said += " " + got.body
	}
	if len(words) > 2 {
		name, _, _ := strings.Cut(words[2], "=")
		said += " " + name + "=" + got.header.Get(name)
	}
	if said != c.want {
		w.t.Errorf("%+v: %q, want %q", c.request, said, c.want)
	}
}

const gatewayAPI = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: part-two, namespace: shop, creationTimestamp: "2026-02-01T00:00:00Z"}
spec:
  parentRefs: [{name: outside}]
  hostnames: [www.example.com]
  rules:
    - matches:
        - {path: {type: PathPrefix, value: /match/prefix}}
        - {path: {type: Exact, value: /match}}
        - {path: {type: PathPrefix, value: /methods}, method: POST}
        - {headers: [{name: version, value: two}]}
      backendRefs: [{name: b, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: part-one, namespace: shop, creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  parentRefs: [{name: outside}]
  hostnames: [www.example.com, "*.apps.example.com"]
  rules:
    - matches: [{path: {value: /}}]
      backendRefs: [{name: a, port: 80}]
    - matches:
        - {path: {value: /match/}}
        - {path: {value: /methods}}
        - {headers: [{name: version, value: two}, {name: colour, value: "red|green", type: RegularExpression}]}
        - {queryParams: [{name: animal, value: whale}]}
      backendRefs: [{name: c, port: 80}]
    - matches: [{path: {value: /split}}]
      backendRefs: [{name: a, port: 80, weight: 1}, {name: b, port: 80, weight: 0}, {name: nowhere, namespace: elsewhere, port: 80, weight: 0}]
    - matches: [{path: {value: /denied}}]
      backendRefs: [{name: a, namespace: elsewhere, port: 80}]
    - matches: [{path: {value: /denied-share}}]
      backendRefs: [{name: a, port: 80, weight: 0}, {name: a, namespace: elsewhere, port: 80}]
    - matches: [{path: {value: /rewritten}}]
      filters:
        - {type: URLRewrite, urlRewrite: {hostname: inner.example.com, path: {type: ReplacePrefixMatch, replacePrefixMatch: /in}}}
        - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: "100%"}], remove: [x-gone]}}
        - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-answer, value: "yes"}]}}
      backendRefs: [{name: a, port: 80}]
    - matches: [{path: {value: /moved}}]
      filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example.com, path: {type: ReplaceFullPath, replaceFullPath: /here}, statusCode: 301}}]
    - matches: [{path: {value: /guarded}}]
      filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP}}]
      backendRefs: [{name: a, port: 80}]
`

func TestImportedGatewayAPI(t *testing.T) {
	a, b, c := telling(t, "a"), telling(t, "b"), telling(t, "c")
	w := imported(t, gatewayAPI+kube(t, "a", "v1", a.Address)+kube(t, "b", "v1", b.Address)+kube(t, "c", "v1", c.Address))
	const www = "www.example.com"
	for _, one := range []asked{
		{request{host: www, path: "/"}, "200 a"},
		{request{host: www, path: "/match"}, "200 b"},
		{request{host: www, path: "/match/"}, "200 c"},
		{request{host: www, path: "/match/other"}, "200 c"},
		{request{host: www, path: "/matching"}, "200 a"},
		{request{host: www, path: "/match/prefix/x"}, "200 b"},
		{request{host: www, path: "/match/prefixes"}, "200 c"},
		{request{host: www, path: "/methods", method: "POST"}, "200 b"},
		{request{host: www, path: "/methods"}, "200 c"},
		{request{host: www, path: "/methods", headers: map[string]string{"version": "two"}}, "200 c"}, // the path comes first
		{request{host: www, path: "/", headers: map[string]string{"version": "two"}}, "200 b"},
		{request{host: www, path: "/", headers: map[string]string{"version": "two", "colour": "red"}}, "200 c"},
		{request{host: www, path: "/", headers: map[string]string{"version": "two", "colour": "redder"}}, "200 b"},
		{request{host: www, path: "/?animal=whale"}, "200 c"},
		{request{host: "one.apps.example.com", path: "/match"}, "200 c"}, // of the other route nothing holds here
		{request{host: "apps.example.com", path: "/"}, "404"},
		{request{host: "b.shop", path: "/"}, "200 b"}, // the default name of a service that has no host of a route
		{request{host: www, path: "/split"}, "200 a"},
		{request{host: www, path: "/denied"}, "500"},
		{request{host: www, path: "/denied-share"}, "503"},
		{request{host: www, path: "/rewritten/x?y=z"}, "200 a Got=inner.example.com/in/x?y=z"},
		{request{host: www, path: "/rewritten", headers: map[string]string{"x-gone": "1"}}, "200 a Echo-X-Gone="},
		{request{host: www, path: "/rewritten"}, "200 a Echo-X-Set=100%"},
		{request{host: www, path: "/rewritten"}, "200 a X-Answer=yes"},
		{request{host: www, path: "/moved/x?y=z"}, "301  Location=http://new.example.com/here?y=z"},
		{request{host: www, path: "/guarded"}, "500"},
	} {
		w.comesOf(one)
	}
}

const istioMesh = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews]
  http:
    - match: [{headers: {end-user: {exact: jason}}}]
      route: [{destination: {host: reviews, subset: v2}}]
    - match: [{uri: {prefix: /old}}]
      rewrite: {uri: /new}
      route: [{destination: {host: reviews, subset: v1}}]
    - match: [{uri: {prefix: /folder/}, ignoreUriCase: true}]
      rewrite: {uri: /, authority: inner.example.com}
      route: [{destination: {host: reviews, subset: v1}}]
    - match: [{uri: {exact: /gone}}]
      redirect: {uri: /here, authority: "new.example.com:8443"}
    - match: [{uri: {prefix: /moved}}]
      redirect: {prefixRewrite: /there, redirectCode: 308}
    - match: [{uri: {exact: /env}, withoutHeaders: {x-env: {exact: prod}, x-bot: {}}}]
      directResponse: {status: 203, body: {string: other}}
    - match: [{uri: {exact: /empty}, headers: {x-empty: {exact: ""}}, queryParams: {q: {prefix: ab}}, method: {regex: "P.*"}}]
      directResponse: {status: 203, body: {string: matched}}
    - match: [{uri: {exact: /host}, authority: {prefix: reviews.}}]
      directResponse: {status: 203, body: {string: long}}
    - match: [{uri: {exact: /batch}, sourceLabels: {app: batch}}]
      directResponse: {status: 418}
    - match: [{uri: {exact: /fault}}]
      fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
      route: [{destination: {host: reviews}}]
    - match: [{uri: {regex: "/r[0-9]+"}}]
      rewrite: {uriRegexRewrite: {match: "^/r([0-9]+)$", rewrite: '/n/\1'}}
      headers: {request: {set: {x-by: "%REQ(:METHOD)%"}, remove: [x-gone]}, response: {add: {x-answer: "yes"}}}
      route: [{destination: {host: reviews, subset: v1}}]
    - match: [{uri: {prefix: /team}}]
      delegate: {name: team}
    - route: [{destination: {host: reviews, subset: v1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: team, namespace: shop}
spec:
  http:
    - match: [{uri: {exact: /team/two}}]
      route: [{destination: {host: reviews, subset: v2}}]
    - directResponse: {status: 203, body: {string: team}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: pages, namespace: shop}
spec:
  hosts: ["*"]
  gateways: [outside]
  http:
    - match: [{uri: {exact: /page}}, {uri: {prefix: /static}}]
      route: [{destination: {host: pages}}]
`

func TestImportedIstio(t *testing.T) {
	one, two, pages := telling(t, "one"), telling(t, "two"), telling(t, "pages")
	second := strings.SplitN(kube(t, "reviews", "v2", two.Address), "---\n", 3)[2] // the Service is there already
	w := imported(t, istioMesh+kube(t, "reviews", "v1", one.Address)+"---\n"+second+kube(t, "pages", "v1", pages.Address))
	const reviews = "reviews.shop"
	headers := func(pairs ...string) map[string]string {
		all := make(map[string]string)
		for i := 0; i < len(pairs); i += 2 {
			all[pairs[i]] = pairs[i+1]
		}
		return all
	}
	for _, c := range []asked{
		{request{host: reviews, path: "/"}, "200 one"},
		{request{host: "reviews", path: "/"}, "200 one"},
		{request{host: "reviews.shop.svc.cluster.local", path: "/", headers: headers("end-user", "jason")}, "200 two"},
		{request{host: reviews, path: "/", headers: headers("end-user", "jasons")}, "200 one"},
		{request{host: reviews, path: "/old/x?y=z"}, "200 one Got=reviews.shop/new/x?y=z"},
		{request{host: reviews, path: "/older"}, "200 one Got=reviews.shop/newer"},
		{request{host: reviews, path: "/Folder/x"}, "200 one Got=inner.example.com/x"},
		{request{host: reviews, path: "/folder"}, "200 one Got=reviews.shop/folder"},
		{request{host: reviews, path: "/gone"}, "301  Location=http://new.example.com:8443/here"},
		{request{host: reviews, path: "/moved/x"}, "308  Location=http://reviews.shop/there/x"},
		{request{host: reviews, path: "/movedx"}, "308  Location=http://reviews.shop/therex"},
		{request{host: reviews, path: "/env"}, "203 other"},
		{request{host: reviews, path: "/env", headers: headers("x-env", "test")}, "203 other"},
		{request{host: reviews, path: "/env", headers: headers("x-env", "pro")}, "203 other"},
		{request{host: reviews, path: "/env", headers: headers("x-env", "production")}, "203 other"},
		{request{host: reviews, path: "/env", headers: headers("x-env", "prod")}, "200 one"},
		{request{host: reviews, path: "/env", headers: headers("x-bot", "1")}, "200 one"},
		{request{host: reviews, path: "/empty?q=abc", method: "PUT", headers: headers("x-empty", "")}, "203 matched"},
		{request{host: reviews, path: "/empty?q=abc", method: "PUT"}, "200 one"},
		{request{host: reviews, path: "/empty?q=b", method: "PUT", headers: headers("x-empty", "")}, "200 one"},
		{request{host: reviews, path: "/empty?q=abc", headers: headers("x-empty", "")}, "200 one"},
		{request{host: reviews, path: "/host"}, "203 long"},
		{request{host: "reviews", path: "/host"}, "200 one"},
		{request{host: reviews, path: "/batch"}, "200 one"},
		{request{host: reviews, path: "/fault"}, "418"},
		{request{host: reviews, path: "/r12"}, "200 one Got=reviews.shop/n/12"},
		{request{host: reviews, path: "/r12"}, "200 one Echo-X-By=GET"},
		{request{host: reviews, path: "/r12"}, "200 one X-Answer=yes"},
		{request{host: reviews, path: "/r12x"}, "200 one Got=reviews.shop/r12x"},
		{request{host: reviews, path: "/team/two"}, "200 two"},
		{request{host: reviews, path: "/teams"}, "203 team"},
		{request{host: "any.example.com", path: "/page"}, "200 pages"},
		{request{host: "any.example.com", path: "/statically"}, "200 pages"},
		{request{host: "any.example.com", path: "/"}, "404"},
		{request{host: "pages.shop", path: "/"}, "200 pages"},
	} {
		w.comesOf(c)
	}
}

const grpcRoute = `
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: echo, namespace: shop}
spec:
  parentRefs: [{name: outside}]
  hostnames: [grpc.example.com]
  rules:
    - matches:
        - {method: {service: acme.echo.Echo, method: Say}, headers: [{name: x-tenant, value: gold}]}
        - {method: {method: Ping}}
        - {method: {type: RegularExpression, service: "acme\\..*", method: "Get.*"}}
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-via, value: gateway}]}}]
      backendRefs: [{name: two, port: 80}]
    - matches: [{method: {service: acme.echo.Echo}}]
      backendRefs: [{name: one, port: 80}]
`

// TestImportedGRPCRoute: calls go where a GRPCRoute sends them, and nowhere where none of its rules matches.
func TestImportedGRPCRoute(t *testing.T) {
	one, two := newGRPCServer(t, "one"), newGRPCServer(t, "two")
	w := imported(t, grpcRoute+kube(t, "one", "v1", one.address)+kube(t, "two", "v1", two.address))
	conn, err := grpc.NewClient(strings.TrimPrefix(w.gateway, "http://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("grpc.example.com"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for _, c := range []struct{ method, tenant, want string }{
		{"/acme.echo.Echo/Say", "", "one hi"},
		{"/acme.echo.Echo/Say", "gold", "two hi"},
		{"/acme.echo.Echo/Other", "gold", "one hi"},
		{"/any.Thing/Ping", "", "two hi"},
		{"/acme.cart.Cart/GetAll", "", "two hi"},
		{"/acme.cart.Cart/Put", "", ""},
	} {
		m := wrapperspb.String("hi")
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-tenant", c.tenant)
		err := conn.Invoke(ctx, c.method, m, m)
		if c.want == "" {
			if grpcstatus.Code(err) != codes.Unimplemented {
				t.Errorf("%s: %v, want Unimplemented", c.method, err)
			}
			continue
		}
		if err != nil || m.Value != c.want {
			t.Errorf("%s of tenant %q: %q, %v; want %q", c.method, c.tenant, m.Value, err, c.want)
		}
	}
}

const istioPolicies = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings, namespace: shop}
spec:
  hosts: [ratings]
  http:
    - match: [{uri: {prefix: /late}}]
      timeout: 200ms
      route: [{destination: {host: ratings}}]
    - match: [{uri: {prefix: /flaky}}]
      retries: {attempts: 2, perTryTimeout: 5s, retryOn: 5xx}
      route: [{destination: {host: ratings}}]
    - match: [{uri: {prefix: /copied}}]
      mirror: {host: copies}
      mirrorPercentage: {value: 100}
      route: [{destination: {host: ratings}}]
    - match: [{uri: {prefix: /cors}}]
      corsPolicy: {allowOrigins: [{exact: "https://shop.example.com"}], allowMethods: [GET]}
      route: [{destination: {host: ratings}}]
    - route: [{destination: {host: ratings}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ratings, namespace: shop}
spec:
  host: ratings
  trafficPolicy:
    loadBalancer: {consistentHash: {httpHeaderName: x-user}}
    outlierDetection: {consecutive5xxErrors: 3, interval: 100ms, baseEjectionTime: 1h, maxEjectionPercent: 50}
`

// TestImportedIstioPolicies: timeouts, retries, mirrors, CORS, consistent hashing and outlier detection of Istio's objects.
func TestImportedIstioPolicies(t *testing.T) {
	one, two, copies := envoytest.Upstream(t, "one"), envoytest.Upstream(t, "two"), envoytest.Upstream(t, "copies")
	var tries atomic.Int64
	var bad atomic.Bool
	for _, s := range []*envoytest.Server{one, two} {
		s.Handle = func(rw http.ResponseWriter, r *http.Request) bool {
			switch {
			case r.URL.Path == "/late":
				pause(r.Context(), time.Minute)
			case r.URL.Path == "/flaky" && tries.Add(1)%3 != 0, r.URL.Path == "/bad" && s == one && bad.Load():
				rw.WriteHeader(http.StatusServiceUnavailable)
			default:
				return false
			}
			return true
		}
	}
	second := strings.SplitN(kube(t, "ratings", "v2", two.Address), "---\n", 3)[2]
	w := imported(t, istioPolicies+kube(t, "ratings", "v1", one.Address)+"---\n"+second+kube(t, "copies", "v1", copies.Address))
	const ratings = "ratings.shop"
	had := make(map[string]string) // endpoint by user
	used := make(map[string]int)
	for range 3 {
		for i := range 40 {
			user := fmt.Sprint("user-", i)
			got := w.mustDo(request{host: ratings, path: "/", headers: map[string]string{"X-User": user}}).body
			if had[user] != "" && had[user] != got {
				t.Errorf("%s was at %s, and is at %s", user, had[user], got)
			}
			had[user] = got
			used[got]++
		}
	}
	if len(used) != 2 {
		t.Errorf("all users are at one endpoint: %v", used)
	}
	for path, want := range map[string]int{"/late": http.StatusGatewayTimeout, "/flaky": http.StatusOK, "/copied": http.StatusOK} {
		if got := w.mustDo(request{host: ratings, path: path, headers: map[string]string{"X-User": "user-0"}}); got.status != want {
			t.Errorf("%s: %d %s, want %d", path, got.status, got.body, want)
		}
	}
	if n := tries.Load(); n != 3 {
		t.Errorf("%d tries, want 3", n)
	}
	w.eventually("the copy comes", func() error {
		if n := copies.Requests.Load(); n != 1 {
			return fmt.Errorf("%d copies", n)
		}
		return nil
	})
	got := w.mustDo(request{host: ratings, method: http.MethodOptions, path: "/cors", headers: map[string]string{
		"Origin": "https://shop.example.com", "Access-Control-Request-Method": http.MethodGet,
	}})
	if got.header.Get("Access-Control-Allow-Origin") != "https://shop.example.com" {
		t.Errorf("preflight: %d %v", got.status, got.header)
	}

	// An endpoint that fails is left out, also for the users that are its own.
	bad.Store(true)
	ofOne := ""
	for user, at := range had {
		if at == "one" {
			ofOne = user
		}
	}
	w.eventually("the failing endpoint is left out", func() error {
		if got := w.mustDo(request{host: ratings, path: "/bad", headers: map[string]string{"X-User": ofOne}}); got.body != "two" {
			return fmt.Errorf("%d %s", got.status, got.body)
		}
		return nil
	})
}
