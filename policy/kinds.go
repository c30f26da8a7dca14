package policy

// The kinds, as policy.md fixes their field names. Where a field has a default, [Load] has filled it in, so that
// nobody downstream has to know it; a pointer is nil only where absence itself means something, as said there.

// MeshSpec is what holds for everything; one document a set.
type MeshSpec struct {
	Tracing   *Tracing   `yaml:"tracing,omitempty"`   // nil: no spans
	AccessLog *AccessLog `yaml:"accessLog,omitempty"` // nil: no access log
}

// Tracing is where Envoys send their spans and what they write on them.
type Tracing struct {
	Collector string   `yaml:"collector"`         // HOST:PORT of OTLP over gRPC
	Percent   *float64 `yaml:"percent,omitempty"` // share of new traces that Envoy begins; default 100, since the collector decides
	Tags      []Tag    `yaml:"tags,omitempty"`
}

// Tag is one attribute on spans and access logs.
type Tag struct {
	Name   string `yaml:"name"`
	Header string `yaml:"header"` // the request header that it is taken from
}

// AccessLog sends access logs to the tracing collector over OTLP.
type AccessLog struct {
	To   string         `yaml:"to"`             // otlp
	Only *AccessLogOnly `yaml:"only,omitempty"` // nil: every request
}

// AccessLogOnly says which requests are logged.
type AccessLogOnly struct {
	Status StatusCondition `yaml:"status"`
}

// StatusCondition compares a response status: >=500, <400 or =404, with the operators >=, <=, >, < and =.
type StatusCondition struct {
	Op    string
	Value int
}

// GatewaySpec is where traffic enters.
type GatewaySpec struct {
	Listeners []Listener `yaml:"listeners"`
	Address   string     `yaml:"address,omitempty"`  // default 0.0.0.0
	Services  []string   `yaml:"services,omitempty"` // NAMESPACE/NAME with * as wildcard; default ["*"], which is all
}

// Listener is one port of a gateway.
type Listener struct {
	Name          string       `yaml:"name"`
	Port          int          `yaml:"port"`
	Protocol      string       `yaml:"protocol,omitempty"`      // http (default) or https; passthrough comes with a later issue
	TLS           *ListenerTLS `yaml:"tls,omitempty"`           // of https
	HTTP3         bool         `yaml:"http3,omitempty"`         // https over QUIC too, on the same port of UDP
	HTTPSRedirect *int         `yaml:"httpsRedirect,omitempty"` // of http: every request is answered with the same URL of https at this port; nil: served
}

// ServiceSpec is what a service is called, where it runs, and how to call it well.
type ServiceSpec struct {
	Hosts            []string          `yaml:"hosts,omitempty"`    // *.DOMAIN and * are for what no other host takes; default [NAME.NAMESPACE], or [NAME] without a namespace
	Port             int               `yaml:"port,omitempty"`     // what endpoints without a port use
	Protocol         string            `yaml:"protocol,omitempty"` // http (default), http2, grpc
	Class            string            `yaml:"class,omitempty"`    // default "default"
	Versions         []Version         `yaml:"versions,omitempty"`
	Endpoints        Endpoints         `yaml:"endpoints"`
	LoadBalancing    LoadBalancing     `yaml:"loadBalancing,omitempty"`
	CircuitBreaker   CircuitBreaker    `yaml:"circuitBreaker,omitempty"`
	OutlierDetection *OutlierDetection `yaml:"outlierDetection,omitempty"` // nil: off
	HealthCheck      *HealthCheck      `yaml:"healthCheck,omitempty"`      // nil: off
	Affinity         *HashKey          `yaml:"affinity,omitempty"`         // nil: each request by itself
	RequestHeaders   HeaderChanges     `yaml:"requestHeaders,omitempty"`
	ResponseHeaders  HeaderChanges     `yaml:"responseHeaders,omitempty"`
	Handling         `yaml:",inline"`
}

// Version is a named subset of a service's endpoints.
type Version struct {
	Name            string            `yaml:"name"`
	Selector        map[string]string `yaml:"selector,omitempty"`       // default {version: NAME}
	RequestHeaders  HeaderChanges     `yaml:"requestHeaders,omitempty"` // of requests that it takes
	ResponseHeaders HeaderChanges     `yaml:"responseHeaders,omitempty"`
}

// Endpoints is where a service runs: exactly one of its fields is set.
type Endpoints struct {
	Static []StaticEndpoint `yaml:"static,omitempty"`
	DNS    *DNSEndpoints    `yaml:"dns,omitempty"`
	None   bool             `yaml:"none,omitempty"` // it runs nowhere: its rules answer, or send on to other services; what is left gets 503
}

// StaticEndpoint is one address, an IP.
type StaticEndpoint struct {
	Address string            `yaml:"address"`
	Port    int               `yaml:"port,omitempty"` // default: the service's
	Labels  map[string]string `yaml:"labels,omitempty"`
	Zone    string            `yaml:"zone,omitempty"`
}

// DNSEndpoints are the addresses behind a name, which each Envoy resolves. All of them have the labels given.
type DNSEndpoints struct {
	Name    string    `yaml:"name"`
	Port    int       `yaml:"port,omitempty"`    // default: the service's
	Refresh *Duration `yaml:"refresh,omitempty"` // default 5s
}

// LoadBalancing is how an endpoint is picked.
type LoadBalancing struct {
	Policy            string `yaml:"policy,omitempty"`            // least_request (default), round_robin, random; of a service with affinity ring_hash (default) or maglev
	HashBalanceFactor int    `yaml:"hashBalanceFactor,omitempty"` // of ring_hash and maglev: no endpoint has more than this per cent of the mean load; 0: no bound
}

// CircuitBreaker bounds what one Envoy has open towards one version.
type CircuitBreaker struct {
	MaxConnections *int `yaml:"maxConnections,omitempty"` // default 1024
	MaxPending     *int `yaml:"maxPending,omitempty"`     // default 1024
	MaxRequests    *int `yaml:"maxRequests,omitempty"`    // default 1024
	MaxRetries     *int `yaml:"maxRetries,omitempty"`     // default 3
}

// OutlierDetection ejects endpoints that fail real requests.
type OutlierDetection struct {
	Consecutive5xx int      `yaml:"consecutive5xx,omitempty"` // default 5
	Interval       Duration `yaml:"interval,omitempty"`       // default 10s
	EjectFor       Duration `yaml:"ejectFor,omitempty"`       // default 30s
	MaxEjected     float64  `yaml:"maxEjected,omitempty"`     // percent, default 50
}

// HealthCheck asks endpoints whether they are well.
type HealthCheck struct {
	Path      string   `yaml:"path,omitempty"`      // default /healthz
	Interval  Duration `yaml:"interval,omitempty"`  // default 10s
	Timeout   Duration `yaml:"timeout,omitempty"`   // default 1s
	Unhealthy int      `yaml:"unhealthy,omitempty"` // default 3
	Healthy   int      `yaml:"healthy,omitempty"`   // default 2
}

// Retries says which failures are tried again, and how often.
type Retries struct {
	Attempts *int      `yaml:"attempts,omitempty"` // default 2; 0 is none, whatever the service says
	PerTry   *Duration `yaml:"perTry,omitempty"`   // nil: only the route's timeout
	On       []string  `yaml:"on,omitempty"`       // Envoy's retry_on words; default [connect-failure, refused-stream, unavailable, reset-before-request], which do no harm
	Budget   float64   `yaml:"budget,omitempty"`   // of a service: percent of active requests that may be retries; 0: circuitBreaker.maxRetries bounds them
	Codes    []int     `yaml:"codes,omitempty"`    // statuses that are tried again beside those that on says
	Backoff  *Duration `yaml:"backoff,omitempty"`  // before the first retry; each one after it may wait longer, up to ten times; default 25ms
}

// RouteSpec is which requests to a service go where. Rules are tried in order; the first that matches wins.
type RouteSpec struct {
	Service string `yaml:"service"` // NAME in the document's namespace, or NAMESPACE/NAME
	Rules   []Rule `yaml:"rules"`
}

// Rule is one row of a Route.
type Rule struct {
	Name            string          `yaml:"name,omitempty"`  // default rule-N, from 0
	Match           Match           `yaml:"match,omitempty"` // zero: every request
	To              []Destination   `yaml:"to,omitempty"`    // default: all endpoints of the service; none with redirect or directResponse
	RequestHeaders  HeaderChanges   `yaml:"requestHeaders,omitempty"`
	ResponseHeaders HeaderChanges   `yaml:"responseHeaders,omitempty"`
	RateLimit       *RuleLimit      `yaml:"rateLimit,omitempty"`
	Sticky          *HashKey        `yaml:"sticky,omitempty"` // one user always gets one version; nil: by the service's affinity, or each request by itself
	Mirror          []Mirror        `yaml:"mirror,omitempty"`
	Redirect        *Redirect       `yaml:"redirect,omitempty"`
	URLRewrite      *URLRewrite     `yaml:"urlRewrite,omitempty"`
	DirectResponse  *DirectResponse `yaml:"directResponse,omitempty"`
	Fault           *Fault          `yaml:"fault,omitempty"`
	LoadTest        *LoadTest       `yaml:"loadTest,omitempty"`
	Handling        `yaml:",inline"`
}

// Match holds when every part that is set holds.
type Match struct {
	Path    *StringMatch `yaml:"path,omitempty"` // exact, prefix or regex
	Methods []string     `yaml:"methods,omitempty"`
	Headers []NamedMatch `yaml:"headers,omitempty"`
	Query   []NamedMatch `yaml:"query,omitempty"`
	Cookies []NamedMatch `yaml:"cookies,omitempty"`
	GRPC    *GRPCMatch   `yaml:"grpc,omitempty"`
}

// StringMatch compares a string; exactly one field is set. A path prefix matches whole segments, as in Gateway API.
type StringMatch struct {
	Exact  *string `yaml:"exact,omitempty"`
	Prefix *string `yaml:"prefix,omitempty"`
	Regex  *string `yaml:"regex,omitempty"` // RE2, the whole string
}

// NamedMatch compares a header, query parameter or cookie; exactly one of present and the comparisons is set.
type NamedMatch struct {
	Name    string  `yaml:"name"`
	Exact   *string `yaml:"exact,omitempty"`
	Prefix  *string `yaml:"prefix,omitempty"`
	Regex   *string `yaml:"regex,omitempty"`
	Present *bool   `yaml:"present,omitempty"`
}

// Destination is one share of a rule's traffic.
type Destination struct {
	Service string `yaml:"service,omitempty"` // default: the Route's
	Version string `yaml:"version,omitempty"` // "" is every endpoint of the service
	Weight  *int   `yaml:"weight,omitempty"`  // default 1; 0 keeps it warm without traffic
}

// HeaderChanges are made in the order add, set, remove; and first the service's, then the rule's, then the version's.
type HeaderChanges struct {
	Add    map[string]string `yaml:"add,omitempty"`
	Set    map[string]string `yaml:"set,omitempty"`
	Remove []string          `yaml:"remove,omitempty"`
}

// RuleLimit is a limit that one rule's requests share.
type RuleLimit struct {
	Limit   `yaml:",inline"`
	Scope   string       `yaml:"scope,omitempty"` // global (default) or local
	Headers LimitHeaders `yaml:"headers,omitempty"`
}

// LimitHeaders are the headers by which answers tell clients of limits.
type LimitHeaders struct {
	RateLimit  *bool `yaml:"rateLimit,omitempty"`  // of global limits: RateLimit and RateLimit-Policy, of the IETF's draft; default true
	XRateLimit *bool `yaml:"xRateLimit,omitempty"` // x-ratelimit-limit, -remaining and -reset; default true
	RetryAfter *bool `yaml:"retryAfter,omitempty"` // Retry-After, of refusals; default true
}

// Limit is a rate.
type Limit struct {
	By        []LimitBy `yaml:"by,omitempty"` // none: all requests share one key
	Requests  int       `yaml:"requests"`
	Per       Period    `yaml:"per"`                 // second, minute, hour, day, week, month, year, or a duration of whole seconds
	Algorithm string    `yaml:"algorithm,omitempty"` // gcra (default), sliding_window or fixed_window (default of month and year)
	Burst     int       `yaml:"burst,omitempty"`     // of gcra: how many may pass at once; default: requests
	Cost      *Cost     `yaml:"cost,omitempty"`      // nil: each request counts as one
	Shadow    bool      `yaml:"shadow,omitempty"`    // counted, never refused

	// Of local limits, one of the two at most.
	PerConnection bool `yaml:"perConnection,omitempty"` // each connection of a client by itself
	FairShare     bool `yaml:"fairShare,omitempty"`     // of a RateLimit: requests is of all proxies together, and each takes its part by how many there are
}

// LimitBy is one part of a limit's key: exactly one of header and remoteAddress is set. With exact, prefix, suffix or
// regex, of which there is one at most, the limit is for requests with such a value only, and takes them out of limits
// of the same document that take any value of that header; exact takes them out of the other three too.
type LimitBy struct {
	Header        string `yaml:"header,omitempty"`
	Exact         string `yaml:"exact,omitempty"`
	Prefix        string `yaml:"prefix,omitempty"`
	Suffix        string `yaml:"suffix,omitempty"`
	Regex         string `yaml:"regex,omitempty"` // RE2, the whole value
	Share         bool   `yaml:"share,omitempty"` // all values of a prefix, suffix or regex count together, and not each by itself
	RemoteAddress bool   `yaml:"remoteAddress,omitempty"`
}

// Cost is how many requests one counts for; exactly one of its fields is set. What is known only when the answer is
// complete is charged then: such requests are let through as long as anything is left, and what is charged beyond the
// limit has to be waited for.
type Cost struct {
	Number         int    `yaml:"number,omitempty"`
	RequestHeader  string `yaml:"requestHeader,omitempty"`  // as it says, from 1 to 999999999; 1 where it says anything else
	ResponseHeader string `yaml:"responseHeader,omitempty"` // charged as it says, up to 1000000000; nothing where it says no number
	RequestBytes   bool   `yaml:"requestBytes,omitempty"`   // charged, of the body
	ResponseBytes  bool   `yaml:"responseBytes,omitempty"`  // charged, of the body
}

// RateLimitSpec is limits on a service.
type RateLimitSpec struct {
	Service string  `yaml:"service"`
	Limits  []Limit `yaml:"limits"`
	Scope   string  `yaml:"scope,omitempty"`   // global (default), local, or quota: each Envoy decides by the part of a global limit that it is given
	OnError string  `yaml:"onError,omitempty"` // allow (default) or deny: when the limit service can't be asked

	Headers LimitHeaders `yaml:"headers,omitempty"`
}

// SamplingSpec is which traces are kept.
type SamplingSpec struct {
	// Classes holds percentages by class. Of what a document leaves out the requirements' figures stay:
	// main 20, api 30, background 5, health 1, executions 50, cache 20, default 20.
	Classes    map[string]float64 `yaml:"classes,omitempty"`
	Operations []OperationRate    `yaml:"operations,omitempty"` // the first that matches wins over the class
	Adaptive   *Adaptive          `yaml:"adaptive,omitempty"`   // nil: rates stay as they are written
	Keep       *Keep              `yaml:"keep,omitempty"`       // nil: spans are judged one by one, and never held
	Wait       Duration           `yaml:"wait,omitempty"`       // with keep: how long a trace is held at most; default 5s

	// AtSource says what SDKs and proxies make of what they serve: auto (the default) is what the rates will keep, or
	// everything where traces are judged whole (keep); always is what the rates will keep, although what rules of keep
	// would choose among the rest is lost; off is everything.
	AtSource string `yaml:"atSource,omitempty"`
}

// ThinnedAtSource says whether SDKs and proxies are to make no more than the rates will keep.
func (s *SamplingSpec) ThinnedAtSource() bool {
	return s.AtSource == "always" || s.AtSource == "auto" && s.Keep == nil
}

// Keep has traces judged whole, each by its root's rate, and says which are kept whatever their rate.
type Keep struct {
	Errors         bool     `yaml:"errors,omitempty"`         // a span failed
	SlowerThan     Duration `yaml:"slowerThan,omitempty"`     // a span, or the trace from first to last, took longer
	SlowestPercent float64  `yaml:"slowestPercent,omitempty"` // of each operation's roots
	RarerThan      Duration `yaml:"rarerThan,omitempty"`      // an operation of which nothing was kept for so long
	Marked         []string `yaml:"marked,omitempty"`         // attributes of spans or members of baggage that mark a trace, unless they are false or ""
}

// Adaptive is a budget of kept spans. Classes are where rates begin; Operations stay as they are, within it.
type Adaptive struct {
	SpansPerSecond float64  `yaml:"spansPerSecond"`   // of all services together
	Min            *float64 `yaml:"min,omitempty"`    // per cent that every operation keeps at least, also beyond the budget; default 0.1
	Max            *float64 `yaml:"max,omitempty"`    // per cent that any keeps at most; default 100
	Window         Duration `yaml:"window,omitempty"` // how long what has come is remembered; default 10s

	Classes  map[string]float64 `yaml:"classes,omitempty"`  // spans a second, of a class
	Services map[string]float64 `yaml:"services,omitempty"` // spans a second, of NAMESPACE/NAME
}

// OperationRate is an operation's own rate.
type OperationRate struct {
	Service   string  `yaml:"service,omitempty"` // NAMESPACE/NAME; "" is any
	Operation string  `yaml:"operation"`         // a span's name, * as wildcard
	Percent   float64 `yaml:"percent"`
}

// RetentionSpec is how long traces are kept, and where.
type RetentionSpec struct {
	// Classes holds how long by class; of what is left out, main 90d, api 60d, background 30d, health 7d,
	// executions 90d, cache 30d, default 30d.
	Classes map[string]Duration `yaml:"classes,omitempty"`
	Archive *Archive            `yaml:"archive,omitempty"` // nil: nothing is archived
}

// Archive is a bucket.
type Archive struct {
	Bucket      string `yaml:"bucket"`                // s3://NAME or s3://NAME/PREFIX
	Region      string `yaml:"region,omitempty"`      // default us-east-1
	Endpoint    string `yaml:"endpoint,omitempty"`    // "" is AWS; http://… or https://… of any other S3 server
	Compression string `yaml:"compression,omitempty"` // gzip
}
