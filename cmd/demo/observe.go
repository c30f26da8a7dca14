package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/machinenativeops/weir/archive"
)

// spans counts what the collector saw and kept of a class.
type spans struct{ in, kept int }

var sampled = regexp.MustCompile(`^\w*weir_sampling_spans\w*\{(.*)\} (\S+)`)

// label reads one label of a Prometheus line.
func label(labels, name string) string {
	_, rest, _ := strings.Cut(","+labels, ","+name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// sampling reads the collector's own metrics.
func (w *world) sampling(ctx context.Context) (map[string]spans, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.address("metrics")+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return parseSampling(string(body)), nil
}

func parseSampling(metrics string) map[string]spans {
	classes := make(map[string]spans)
	for line := range strings.Lines(metrics) {
		m := sampled.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		n, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			continue
		}
		class := label(m[1], "class")
		s := classes[class]
		s.in += int(n)
		if label(m[1], "decision") == "kept" {
			s.kept += int(n)
		}
		classes[class] = s
	}
	return classes
}

// archived is what stands in the bucket.
type archived struct {
	objects int
	decoded int // spans in the object that was read back
	err     error
}

const bucketName = "traces"

// bucket lists the archive and reads one object back.
func (w *world) bucket(ctx context.Context) archived {
	client := s3.New(s3.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(w.s3.Endpoint), UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(w.s3.AccessKey, w.s3.SecretKey, ""),
	})
	var a archived
	var first *string
	pages := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{Bucket: aws.String(bucketName)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return archived{err: fmt.Errorf("list the bucket: %w", err)}
		}
		a.objects += len(page.Contents)
		if first == nil && len(page.Contents) > 0 {
			first = page.Contents[0].Key
		}
	}
	if first == nil {
		return a
	}
	out, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(bucketName), Key: first})
	if err != nil {
		return archived{err: fmt.Errorf("get %s: %w", *first, err)}
	}
	defer out.Body.Close()
	traces, err := archive.Decode(out.Body)
	if err != nil {
		return archived{err: fmt.Errorf("read %s: %w", *first, err)}
	}
	a.decoded = traces.SpanCount()
	return a
}

// lastChange asks weir when documents last took effect, and how long that took.
func (w *world) lastChange(ctx context.Context) string {
	report, err := getStatus(ctx, "http://"+w.address("http")+"/api/v1/status")
	if err != nil {
		return "weir does not answer: " + err.Error()
	}
	return changeText(report, time.Now(), w.policy)
}

// changeText names files as they are called in the folder of documents.
func changeText(s weirStatus, now time.Time, folder string) string {
	text := fmt.Sprintf("%s ago, in force after %s", now.Sub(s.Policy.Applied).Round(time.Second), s.Policy.Took)
	if n := len(s.Policy.Problems); n > 0 {
		text += fmt.Sprintf("; %d refused: %s", n, strings.TrimPrefix(s.Policy.Problems[0].String(), folder+"/"))
	}
	return text
}
