package sampling

import "github.com/machinenativeops/weir/policy"

// DefaultClass is the class of what no document and no attribute gives one.
const DefaultClass = policy.DefaultClass

// ClassAttribute is the resource attribute that gives a service without a document its class.
const ClassAttribute = "weir.class"

// Classes knows the class of each service. It is immutable.
type Classes struct {
	byService map[policy.Ref]string
}

// NewClasses takes the classes of the documents. One that names no class, which a loaded document can't be told
// apart from one that names the default class, leaves it to the attribute.
func NewClasses(services []*policy.Document[policy.ServiceSpec]) *Classes {
	c := &Classes{byService: make(map[policy.Ref]string, len(services))}
	for _, s := range services {
		if s.Spec.Class != "" && s.Spec.Class != DefaultClass {
			c.byService[s.Ref()] = s.Spec.Class
		}
	}
	return c
}

// Of gives a service's class: that of its document, or else the attribute's, or else [DefaultClass].
func (c *Classes) Of(service policy.Ref, attribute string) string {
	if class, ok := c.byService[service]; ok {
		return class
	}
	if attribute != "" {
		return attribute
	}
	return DefaultClass
}

// RouteAttribute is the span attribute by which proxies say which rule's request it was.
const RouteAttribute = "weir.route"

// ThresholdAttribute is the attribute by which a root says at which threshold it was kept by chance, as a tracestate would
// have it: proxies decide by the request's id, and can't write a tracestate.
const ThresholdAttribute = "weir.sampling.threshold"
