package archiveexporter

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/machinenativeops/weir/archive"
	"github.com/machinenativeops/weir/policy"
)

const defaultRegion = "us-east-1"

// location says where the archive is.
type location struct {
	name, prefix     string
	region, endpoint string
	pathStyle        bool // the bucket stands in the path, not in the host name
}

var errNoBucket = errors.New("no bucket: name it in the Retention document (spec.archive.bucket) or in s3.bucket")

// locate takes what the configuration says, and of the rest what the document says, which may be nil.
func locate(doc *policy.Archive, override S3Config) (location, error) {
	if doc == nil {
		doc = &policy.Archive{}
	}
	b := archive.Bucket{Name: override.Bucket}
	if b.Name == "" && doc.Bucket != "" {
		var err error
		if b, err = archive.ParseBucket(doc.Bucket); err != nil {
			return location{}, err
		}
	}
	if b.Name == "" {
		return location{}, errNoBucket
	}
	l := location{
		name:     b.Name,
		prefix:   cmp.Or(override.Prefix, b.Prefix),
		region:   cmp.Or(override.Region, doc.Region, defaultRegion),
		endpoint: cmp.Or(override.Endpoint, doc.Endpoint),
	}
	l.pathStyle = l.endpoint != "" // few S3 servers have a host name for each bucket
	if override.PathStyle != nil {
		l.pathStyle = *override.PathStyle
	}
	return l, nil
}

// bucket writes objects to a location.
type bucket struct {
	location location
	client   *s3.Client
}

// open makes a client; it asks the server nothing.
func open(l location) (*bucket, error) {
	cfg, err := config.LoadDefaultConfig(context.Background(), config.WithRegion(l.region))
	if err != nil {
		return nil, fmt.Errorf("aws configuration: %w", err)
	}
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.UsePathStyle = l.pathStyle
		if l.endpoint != "" {
			o.BaseEndpoint = aws.String(l.endpoint)
		}
	})
	return &bucket{location: l, client: client}, nil
}

// write stores a group as one object.
func (b *bucket) write(ctx context.Context, g group) error {
	object, err := archive.Encode(g.Group, g.traces)
	if err != nil {
		return err
	}
	key := object.Key.At(b.location.prefix)
	_, err = b.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket:      aws.String(b.location.name),
		Key:         aws.String(key),
		Body:        bytes.NewReader(object.Body),
		ContentType: aws.String("application/gzip"),
	})
	if err != nil {
		return fmt.Errorf("put s3://%s/%s: %w", b.location.name, key, err)
	}
	return nil
}
