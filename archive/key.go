package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/machinenativeops/weir/policy"
)

// Extension ends the name of every object.
const Extension = ".otlp.pb.gz"

// Group is what the spans of an object have in common.
type Group struct {
	Retention string // as documents write it, such as 90d
	Class     string
	Service   policy.Ref
}

// Key names an object.
type Key struct {
	Group
	Hour time.Time // of the earliest span, whole hours in UTC
	Hash string    // of the content, see [Hash]
}

// Hash names content: the first half of its SHA-256, in hex.
func Hash(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:len(sum)/2])
}

// NewKey names an object of that content, uncompressed, whose earliest span started at that instant.
func NewKey(g Group, earliest time.Time, content []byte) Key {
	return Key{Group: g, Hour: earliest.UTC().Truncate(time.Hour), Hash: Hash(content)}
}

// String gives the name without the bucket's prefix. Whatever stands in the names of services and classes, no part
// holds a slash or more than 200 bytes, and different names give different parts.
func (k Key) String() string {
	return strings.Join([]string{
		"retention=" + escape(k.Retention),
		"class=" + escape(k.Class),
		"service=" + serviceName(k.Service),
		k.Hour.UTC().Format("date=2006-01-02/hour=15"),
		k.Hash + Extension,
	}, "/")
}

// At gives the name within a bucket.
func (k Key) At(prefix string) string {
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		return prefix + "/" + k.String()
	}
	return k.String()
}

var errKey = errors.New("not the name of an archived object")

// ParseKey reads a name back, without the bucket's prefix. A part that was too long for a name comes back cut, with
// ~ and a hash at its end.
func ParseKey(s string) (Key, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 6 {
		return Key{}, fmt.Errorf("%q: %w", s, errKey)
	}
	k, ok := Key{}, true
	field := func(i int, name string) string {
		value, found := strings.CutPrefix(parts[i], name+"=")
		ok = ok && found
		return value
	}
	retention, class, service := field(0, "retention"), field(1, "class"), field(2, "service")
	hour, err := time.Parse("2006-01-02 15", field(3, "date")+" "+field(4, "hour"))
	hash, named := strings.CutSuffix(parts[5], Extension)
	if !ok || !named || err != nil {
		return Key{}, fmt.Errorf("%q: %w", s, errKey)
	}
	k.Retention, k.Class, k.Hour, k.Hash = unescape(retention), unescape(class), hour, hash
	k.Service = parseServiceName(service)
	return k, nil
}

// serviceName gives NAMESPACE.NAME, or NAME without a namespace. A dot within either is escaped.
func serviceName(r policy.Ref) string {
	if r.Namespace == "" {
		return escape(r.Name)
	}
	return escape(r.Namespace) + "." + escape(r.Name)
}

func parseServiceName(s string) policy.Ref {
	if namespace, name, ok := strings.Cut(s, "."); ok {
		return policy.Ref{Namespace: unescape(namespace), Name: unescape(name)}
	}
	return policy.Ref{Name: unescape(s)}
}
