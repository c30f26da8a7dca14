package archive

import (
	"fmt"
	"strings"
)

// Bucket is a bucket and the prefix of all names in it.
type Bucket struct{ Name, Prefix string }

// ParseBucket reads s3://NAME or s3://NAME/PREFIX.
func ParseBucket(s string) (Bucket, error) {
	rest, ok := strings.CutPrefix(s, "s3://")
	name, prefix, _ := strings.Cut(rest, "/")
	if !ok || name == "" {
		return Bucket{}, fmt.Errorf("bucket %q: must be s3://NAME or s3://NAME/PREFIX", s)
	}
	return Bucket{Name: name, Prefix: strings.Trim(prefix, "/")}, nil
}
