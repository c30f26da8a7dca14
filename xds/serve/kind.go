package serve

import (
	"strings"

	"github.com/machinenativeops/weir/xds"
)

// kind is a type of resource. Their order is that of [xds.Types]: make before break.
type kind int

const (
	clusterKind kind = iota
	endpointKind
	secretKind
	extensionKind
	listenerKind
	routeKind
	virtualHostKind
	kinds = iota
)

var typeURLs = [kinds]string(xds.Types)

// String gives the type URL.
func (k kind) String() string { return typeURLs[k] }

// short is the last word of the type URL.
func (k kind) short() string { return typeURLs[k][strings.LastIndexByte(typeURLs[k], '.')+1:] }

// usesClusters says whether resources of the type refer to clusters.
func (k kind) usesClusters() bool {
	return k == listenerKind || k == routeKind || k == virtualHostKind
}

// kindOf gives the type of a URL, if it is served.
func kindOf[T string | []byte](url T) (kind, bool) {
	for k, one := range typeURLs {
		if string(url) == one {
			return kind(k), true
		}
	}
	return 0, false
}
