package documents

import (
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/machinenativeops/weir/internal/otlp"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/sampling"
)

// Attributes of a resource by which Weir knows it.
const (
	serviceName      = "service.name"
	serviceNamespace = "service.namespace"

	// RetentionAttribute says how long a resource's spans are kept, such as 90d.
	RetentionAttribute = "weir.retention"
)

// Service names the service that a resource is of, and gives the class that the resource itself claims, or "".
func Service(r pcommon.Resource) (ref policy.Ref, class string) {
	return service(r.Attributes())
}

// ServiceOf is [Service] of an undecoded resource. What it gives outlives the request.
func ServiceOf(r otlp.Resource) (ref policy.Ref, class string) {
	ref, class = service(r.Attributes())
	return policy.Ref{Namespace: strings.Clone(ref.Namespace), Name: strings.Clone(ref.Name)}, strings.Clone(class)
}

// Attributes are a [pcommon.Map], or [otlp.Attributes] that nobody has decoded.
type Attributes[V Value] interface {
	Get(name string) (v V, ok bool)
}

func service[A Attributes[V], V Value](of A) (ref policy.Ref, class string) {
	return policy.Ref{Namespace: Text(of, serviceNamespace), Name: Text(of, serviceName)}, Text(of, sampling.ClassAttribute)
}

// Text gives an attribute as a text, or "" if it is not there. Of an undecoded one it is a part of the request.
func Text[A Attributes[V], V Value](of A, name string) string {
	if v, ok := of.Get(name); ok {
		return v.AsString()
	}
	return ""
}

// Retention knows for how long spans are kept. It is immutable.
type Retention struct {
	classes *sampling.Classes
	days    map[string]string // by class, written as documents write it
}

// NewRetention takes what the documents say.
func NewRetention(set *policy.Set) *Retention {
	r := &Retention{classes: sampling.NewClasses(set.Services), days: map[string]string{}}
	for class, d := range set.Retention.Spec.Classes {
		r.days[class] = d.String()
	}
	if r.days[sampling.DefaultClass] == "" {
		r.days[sampling.DefaultClass] = "30d"
	}
	return r
}

// Of gives the class of a service and how long its spans are kept: as long as its class, or else as the default one.
func (r *Retention) Of(service policy.Ref, claimed string) (class, retention string) {
	class = r.classes.Of(service, claimed)
	if d, ok := r.days[class]; ok {
		return class, d
	}
	return class, r.days[sampling.DefaultClass]
}

// OfResource gives what the resource's attributes say of class and retention, which the retention processor has
// written there, or else what the documents say.
func (r *Retention) OfResource(res pcommon.Resource) (service policy.Ref, class, retention string) {
	service, claimed := Service(res)
	if retention = Text(res.Attributes(), RetentionAttribute); retention != "" && claimed != "" {
		return service, claimed, retention
	}
	class, retention = r.Of(service, claimed)
	return service, class, retention
}
