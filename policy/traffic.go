package policy

// What a rule does with its requests beside sending them on. The words are Gateway API's where it has them, and
// otherwise Envoy's.

// Handling is how requests are handled. A service says it for all of its rules; a rule that says it too has its own.
type Handling struct {
	Timeout         *Duration    `yaml:"timeout,omitempty"`         // of a service, default 15s; of a rule, nil: the service's; 0 is none
	Retries         *Retries     `yaml:"retries,omitempty"`         // nil: the service's, or none
	Hedge           *Hedge       `yaml:"hedge,omitempty"`           // nil: the service's, or none
	Maintenance     *Maintenance `yaml:"maintenance,omitempty"`     // nil: the service's, or none
	CORS            *CORS        `yaml:"cors,omitempty"`            // nil: the service's, or none
	Compression     *Compression `yaml:"compression,omitempty"`     // nil: the service's, or none
	MaxRequestBytes *Size        `yaml:"maxRequestBytes,omitempty"` // of a request's body, 413 above it; nil: the service's, or no bound; 0 is no bound
}

// Hedge sends a request again without giving up the first one: whichever answers first wins.
type Hedge struct {
	OnPerTryTimeout bool `yaml:"onPerTryTimeout"` // when retries.perTry is over; false: no hedging, whatever the service says
}

// Maintenance answers instead of the service: as HTML or JSON where the Accept header asks for one of them and the
// document has it, and otherwise with the plain body.
type Maintenance struct {
	Status     int       `yaml:"status,omitempty"`     // default 503
	Body       string    `yaml:"body,omitempty"`       // text/plain
	HTML       string    `yaml:"html,omitempty"`       // text/html
	JSON       string    `yaml:"json,omitempty"`       // application/json
	RetryAfter *Duration `yaml:"retryAfter,omitempty"` // nil: no Retry-After header
	Unless     *Match    `yaml:"unless,omitempty"`     // requests that get through all the same
}

// Redirect answers with another URL. What is not set stays as the request has it.
type Redirect struct {
	Scheme     string       `yaml:"scheme,omitempty"` // http or https
	Hostname   string       `yaml:"hostname,omitempty"`
	Path       *PathRewrite `yaml:"path,omitempty"`
	Port       int          `yaml:"port,omitempty"`
	StatusCode int          `yaml:"statusCode,omitempty"` // 301, 302 (default), 303, 307 or 308
	StripQuery bool         `yaml:"stripQuery,omitempty"`
}

// URLRewrite changes a request before it is sent on.
type URLRewrite struct {
	Hostname string       `yaml:"hostname,omitempty"`
	Path     *PathRewrite `yaml:"path,omitempty"`
}

// PathRewrite gives a path another form; exactly one of its fields is set. The query stays.
type PathRewrite struct {
	ReplaceFullPath    *string       `yaml:"replaceFullPath,omitempty"`
	ReplacePrefixMatch *string       `yaml:"replacePrefixMatch,omitempty"` // in place of the prefix that the rule's match.path has
	Regex              *RegexRewrite `yaml:"regex,omitempty"`
}

// RegexRewrite replaces what a regular expression (RE2) finds; \1 is the first group.
type RegexRewrite struct {
	Pattern      string `yaml:"pattern"`
	Substitution string `yaml:"substitution"`
}

// DirectResponse answers by itself.
type DirectResponse struct {
	Status      int    `yaml:"status"`
	Body        string `yaml:"body,omitempty"`
	ContentType string `yaml:"contentType,omitempty"` // default text/plain where there is a body
}

// Fault makes a share of the requests slow or failing, to see what their callers do.
type Fault struct {
	Headers []NamedMatch `yaml:"headers,omitempty"` // only requests that have all of these
	Delay   *FaultDelay  `yaml:"delay,omitempty"`
	Abort   *FaultAbort  `yaml:"abort,omitempty"`
}

// FaultDelay holds requests back.
type FaultDelay struct {
	Fixed   Duration `yaml:"fixed"`
	Percent *float64 `yaml:"percent,omitempty"` // default 100
}

// FaultAbort answers in the service's place; exactly one of the statuses is set.
type FaultAbort struct {
	Status     int      `yaml:"status,omitempty"`
	GRPCStatus *int     `yaml:"grpcStatus,omitempty"`
	Percent    *float64 `yaml:"percent,omitempty"` // default 100
}

// CORS answers preflight requests and marks responses, for pages of other origins. The words are Gateway API's.
type CORS struct {
	AllowOrigins     []string  `yaml:"allowOrigins"` // https://shop.example.com, https://*.example.com or *; []: none, whatever the service says
	AllowMethods     []string  `yaml:"allowMethods,omitempty"`
	AllowHeaders     []string  `yaml:"allowHeaders,omitempty"`
	ExposeHeaders    []string  `yaml:"exposeHeaders,omitempty"`
	AllowCredentials bool      `yaml:"allowCredentials,omitempty"`
	MaxAge           *Duration `yaml:"maxAge,omitempty"` // default 5s, as a browser's
}

// Compression makes responses smaller for callers that accept it.
type Compression struct {
	Algorithms   []string `yaml:"algorithms,omitempty"`   // default [zstd, br, gzip]; of what a caller likes best, the first of these, or else the first of the caller's; []: none, whatever the service says
	MinBytes     *Size    `yaml:"minBytes,omitempty"`     // default 1KB: smaller responses stay as they are
	ContentTypes []string `yaml:"contentTypes,omitempty"` // default: text, HTML, CSS, JavaScript, JSON, XML, SVG
}

// Mirror copies a share of a rule's requests to another version. Its answers are thrown away, and neither its failures
// nor its slowness reach the caller.
type Mirror struct {
	Service string    `yaml:"service,omitempty"` // default: the Route's
	Version string    `yaml:"version,omitempty"` // "" is every endpoint of the service
	Percent *float64  `yaml:"percent,omitempty"` // default 100
	Timeout *Duration `yaml:"timeout,omitempty"` // of the copy; default 15s
}

// HashKey is what tells users apart; exactly one of its fields is set.
type HashKey struct {
	Cookie        *CookieKey `yaml:"cookie,omitempty"`
	Header        string     `yaml:"header,omitempty"`
	SourceAddress bool       `yaml:"sourceAddress,omitempty"`
}

// CookieKey is a cookie. With a ttl, a request without it is given one.
type CookieKey struct {
	Name string    `yaml:"name"`
	TTL  *Duration `yaml:"ttl,omitempty"`  // nil: only cookies that somebody else sets; 0s: until the browser is closed
	Path string    `yaml:"path,omitempty"` // default /
}

// PathMatch gives what the match says of the path, which is what a gRPC request calls; nil: any.
func (m *Match) PathMatch() *StringMatch {
	switch {
	case m.GRPC == nil:
		return m.Path
	case m.GRPC.Method == "":
		service := "/" + m.GRPC.Service
		return &StringMatch{Prefix: &service}
	default:
		method := "/" + m.GRPC.Service + "/" + m.GRPC.Method
		return &StringMatch{Exact: &method}
	}
}

// GRPCMatch matches gRPC requests, which say so in their content-type, by what they call.
type GRPCMatch struct {
	Service string `yaml:"service"`          // with its package: acme.cart.Cart
	Method  string `yaml:"method,omitempty"` // "" is all
}

// ListenerTLS is what a listener proves its name with. The files are on the proxy's machine and read by the proxy,
// again when they change: Weir never sees the key.
type ListenerTLS struct {
	Certificate string `yaml:"certificate"`          // path of a PEM chain
	Key         string `yaml:"key"`                  // path of a PEM key
	MinVersion  string `yaml:"minVersion,omitempty"` // "1.2" (default) or "1.3"
}

// LoadTest is a rule for marked load. It ends by itself, at a time or after a number of requests: at least one is set.
type LoadTest struct {
	Until    *Time `yaml:"until,omitempty"`    // from then on the rule takes no request, and marked ones go where the other rules say
	Requests int   `yaml:"requests,omitempty"` // in all, over all proxies, and 429 after them; 0: no bound

	StopWhen *StopWhen `yaml:"stopWhen,omitempty"` // nil: it goes on whatever real requests suffer

	written uint64 // hash of what the rule says
}

// StopWhen says how real requests, which are those that the Route's other rules send on, may fare during a load test. If
// they fare worse it stops, and marked requests are answered with 429 until the rule is edited. At least one of errors and
// meanLatency is set.
type StopWhen struct {
	Errors      *float64  `yaml:"errors,omitempty"`      // per cent that may fail; nil: any
	MeanLatency *Duration `yaml:"meanLatency,omitempty"` // from sending one on to the end of its answer; nil: any
	Window      *Duration `yaml:"window,omitempty"`      // the latest time, of which is judged; default 10s
	MinRequests *int      `yaml:"minRequests,omitempty"` // in the window, and nothing is judged with fewer; default 100
}
