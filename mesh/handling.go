package mesh

import "github.com/machinenativeops/weir/policy"

// inherit gives a rule what it does not say itself of how its service handles requests.
func (r *Rule) inherit(h *policy.Handling) {
	orElse(&r.Hedge, h.Hedge)
	orElse(&r.Maintenance, h.Maintenance)
	orElse(&r.CORS, h.CORS)
	orElse(&r.Compression, h.Compression)
	orElse(&r.MaxRequestBytes, h.MaxRequestBytes)
}

func orElse[T any](own **T, service *T) {
	if *own == nil {
		*own = service
	}
}
