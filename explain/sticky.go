package explain

import (
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// Sticky is how one user always gets one version.
type Sticky struct {
	By     string `json:"by"`               // cookie NAME, header NAME, or source address
	Value  string `json:"value,omitempty"`  // who this user is
	Chosen string `json:"chosen,omitempty"` // the version; "": by chance, since nothing tells the user apart
	Cookie string `json:"cookie,omitempty"` // that a new user is given
}

// sticky finds the version of a user, by the hash that Envoy makes of what tells users apart.
func (x *explainer) sticky(r *mesh.Rule) {
	k := r.Key
	if k == nil {
		return
	}
	s := &Sticky{}
	x.out.Taken.Sticky = s
	var lines []string
	switch {
	case k.SourceAddress:
		s.By, lines = "source address", []string{x.seen.remote}
	case k.Header != "":
		s.By, lines = "header "+k.Header, x.seen.lines(k.Header)
	default:
		s.By = "cookie " + k.Cookie.Name
		value, _ := x.seen.cookie(k.Cookie.Name)
		if value != "" {
			lines = []string{value}
		} else if k.Cookie.TTL != nil { // its value is the request's id, which the request is placed by
			s.Cookie = k.Cookie.Name + ", " + cookieTime(k.Cookie)
			lines = x.seen.lines(requestID)
		}
	}
	if len(lines) == 0 || slices.Contains(lines, generatedID) {
		return
	}
	s.Value = lines[0]
	s.Chosen = placed(r.Placed(), hash(lines))
}

const requestID = "x-request-id"

func cookieTime(k *policy.CookieKey) string {
	if *k.TTL == 0 {
		return "until the browser is closed"
	}
	return fmt.Sprintf("for %s", k.TTL)
}

// hash is Envoy's of the values of a header: each is the seed of the next, in order.
func hash(values []string) uint64 {
	var sum uint64
	for _, v := range slices.Sorted(slices.Values(values)) {
		d := xxhash.NewWithSeed(sum)
		_, _ = d.WriteString(v) // never fails
		sum = d.Sum64()
	}
	return sum
}

// placed gives the share that a hash falls into.
func placed(shares []mesh.Share, hash uint64) string {
	total := uint64(0)
	for _, s := range shares {
		total += uint64(s.Weight)
	}
	place := hash % total
	for _, s := range shares {
		if place < uint64(s.Weight) {
			return s.Subset
		}
		place -= uint64(s.Weight)
	}
	return ""
}
