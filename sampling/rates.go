package sampling

import (
	"strings"
	"sync"

	"github.com/machinenativeops/weir/policy"
)

// Both bound what a stream of invented names can make us remember; beyond them decisions are the same, only slower.
const (
	maxServices   = 4096
	maxOperations = 1024 // a service
)

// Rates are the rates of a set of documents, compiled. They are safe for use by many goroutines at once.
type Rates struct {
	classes    *Classes
	thresholds map[string]Threshold
	known      map[string]bool // classes that documents name
	operations []operation
	adaptive   *adaptive // nil: rates stay as the documents have them
	thinned    bool      // SDKs and proxies make no more than is kept

	lately   front[Service]
	mu       sync.RWMutex
	services map[serviceKey]*Service // at most maxServices
	others   map[string]*Service     // by class, of all beyond, where rates are adaptive
}

type serviceKey struct {
	ref       policy.Ref
	attribute string
}

type operation struct {
	service   pattern
	name      pattern
	threshold Threshold
}

// NewRates compiles the rates of the documents. With a budget, each of so many replicas has the same share of it until
// [Rates.Share] says otherwise; what was learnt under the documents before, which may be nil, stays, and so does the share.
func NewRates(spec *policy.SamplingSpec, services []*policy.Document[policy.ServiceSpec], replicas int, before *Rates) *Rates {
	r := &Rates{
		classes:    NewClasses(services),
		thresholds: make(map[string]Threshold, len(spec.Classes)),
		known:      map[string]bool{DefaultClass: true},
		lately:     make(front[Service], 256),
		services:   map[serviceKey]*Service{},
		thinned:    spec.ThinnedAtSource(),
	}
	for class, percent := range spec.Classes {
		r.thresholds[class] = FromPercent(percent)
		r.known[class] = true
	}
	for _, class := range r.classes.byService {
		r.known[class] = true
	}
	for _, o := range spec.Operations {
		service := o.Service
		if service == "" {
			service = "*"
		}
		r.operations = append(r.operations, operation{compilePattern(service), compilePattern(o.Operation), FromPercent(o.Percent)})
	}
	if spec.Adaptive != nil {
		r.adaptive = &adaptive{spec: *spec.Adaptive}
		r.Share(Parts{Mesh: 1 / float64(max(replicas, 1))})
		r.others = map[string]*Service{}
		if before != nil && before.adaptive != nil {
			r.adopt(before)
		}
	}
	if before != nil {
		r.know(before)
	}
	return r
}

// know takes over which services there are.
func (r *Rates) know(before *Rates) {
	before.mu.RLock()
	defer before.mu.RUnlock()
	for key := range before.services {
		r.Service(key.ref, key.attribute)
	}
}

// Decision is what is to be done with one span.
type Decision struct {
	Keep      bool
	Threshold Threshold // the one it was judged by
	Class     string
}

// Decide judges a span by its service, the class its resource claims ([ClassAttribute], or ""), its name and its
// trace id.
func (r *Rates) Decide(service policy.Ref, attribute, operation string, traceID [16]byte) Decision {
	s := r.Service(service, attribute)
	t := s.Threshold(operation)
	return Decision{Keep: t.Keep(FromTraceID(traceID)), Threshold: t, Class: s.Class}
}

// Service gives the rates of one service. Resources hold many spans of one service: ask once for all of them.
func (r *Rates) Service(service policy.Ref, attribute string) *Service {
	lately := r.lately.of(service.Name)
	if s := lately.Load(); s != nil && s.ref == service && s.attribute == attribute {
		return s
	}
	s := r.find(service, attribute)
	if s.ref == service { // it is not one for all beyond
		lately.Store(s)
	}
	return s
}

func (r *Rates) find(service policy.Ref, attribute string) *Service {
	key := serviceKey{service, attribute}
	r.mu.RLock()
	s := r.services[key]
	r.mu.RUnlock()
	if s != nil {
		return s
	}
	s = r.compile(service, attribute)
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.services[key]; known != nil {
		return known
	}
	if len(r.services) < maxServices {
		r.services[key] = s
	} else if r.adaptive != nil {
		if r.others[s.Class] == nil {
			s.ref = policy.Ref{}
			r.others[s.Class] = s
		}
		s = r.others[s.Class]
	}
	return s
}

func (r *Rates) compile(ref policy.Ref, attribute string) *Service {
	s := &Service{rates: r, ref: ref, attribute: attribute, Class: r.classes.Of(ref, attribute)}
	if !r.known[s.Class] {
		s.Class = DefaultClass
	}
	s.threshold = r.classThreshold(s.Class)
	for _, o := range r.operations {
		if o.service.match(ref.String()) {
			s.operations = append(s.operations, o)
		}
	}
	if len(s.operations) > 0 {
		s.lately = make(front[rated], 64)
	}
	return s
}

func (r *Rates) classThreshold(class string) Threshold {
	if t, ok := r.thresholds[class]; ok {
		return t
	}
	if t, ok := r.thresholds[DefaultClass]; ok {
		return t
	}
	return FromPercent(defaultPercent)
}

// defaultPercent is the rate of classes that have none; policy fills it in already.
const defaultPercent = 20

// Service is the rates of one service.
type Service struct {
	// Class is the service's class; a claimed one that no document knows is [DefaultClass], by whose rate it is
	// judged, so that callers may count by class without bounds of their own.
	Class string

	rates      *Rates
	ref        policy.Ref
	attribute  string
	threshold  Threshold   // of the class
	operations []operation // those that are about this service, in order

	lately front[rated] // empty where no operation has a rate of its own
	mu     sync.RWMutex
	seen   map[string]*rated     // by operation; at most maxOperations
	learnt map[string]*Operation // the same, where rates are adaptive
}

// rated is an operation, and its rate.
type rated struct {
	operation string
	threshold Threshold
}

// Threshold gives the rate of an operation, a span's name: that of the first pattern which matches it, or else
// the class's.
func (s *Service) Threshold(operation string) Threshold {
	if len(s.operations) == 0 {
		return s.threshold
	}
	lately := s.lately.of(operation)
	if known := lately.Load(); known != nil && known.operation == operation {
		return known.threshold
	}
	s.mu.RLock()
	known := s.seen[operation]
	s.mu.RUnlock()
	if known == nil {
		known = s.remember(operation)
	}
	lately.Store(known)
	return known.threshold
}

// matched gives the rate of the documents, and whether it is the operation's own.
func (s *Service) matched(operation string) (Threshold, bool) {
	for _, o := range s.operations {
		if o.name.match(operation) {
			return o.threshold, true
		}
	}
	return s.threshold, false
}

func (s *Service) remember(operation string) *rated {
	t, _ := s.matched(operation)
	operation = strings.Clone(operation)
	known := &rated{operation, t}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[string]*rated{}
	}
	if len(s.seen) < maxOperations {
		s.seen[operation] = known
	}
	return known
}
