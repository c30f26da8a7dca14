package servers

import (
	"context"
	"os"
	"path/filepath"
)

// S3 is a running S3 server.
type S3 struct {
	Process   *Process
	Endpoint  string // http://HOST:PORT
	AccessKey string
	SecretKey string
}

// Env is the environment in which the AWS SDK finds its way to the server.
func (s *S3) Env() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + s.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s.SecretKey, "AWS_REGION=us-east-1"}
}

// StartMinio runs MinIO with its data and log in dir, and each bucket there already.
func StartMinio(ctx context.Context, dir string, buckets ...string) (*S3, error) {
	path, err := Tool("minio")
	if err != nil {
		return nil, err
	}
	address, err := FreeAddress(ctx)
	if err != nil {
		return nil, err
	}
	console, err := FreeAddress(ctx)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "s3")
	for _, b := range append(buckets, "") { // a folder is a bucket
		if err := os.MkdirAll(filepath.Join(data, b), 0o700); err != nil {
			return nil, err
		}
	}
	s := &S3{Endpoint: "http://" + address, AccessKey: "weir-test", SecretKey: "weir-test-secret"}
	s.Process, err = Start(Command{
		Name: "minio", Path: path, Args: []string{"server", "--address", address, "--console-address", console, data},
		Env: []string{"MINIO_ROOT_USER=" + s.AccessKey, "MINIO_ROOT_PASSWORD=" + s.SecretKey, "MINIO_BROWSER=off"},
		Log: filepath.Join(dir, "minio.log"),
	})
	if err != nil {
		return nil, err
	}
	if err := s.Process.WaitHTTP(ctx, s.Endpoint+"/minio/health/ready"); err != nil {
		s.Process.Stop()
		return nil, err
	}
	return s, nil
}

// Minio is StartMinio for a test.
func Minio(tb TB, buckets ...string) *S3 {
	tb.Helper()
	s, err := StartMinio(context.Background(), tb.TempDir(), buckets...)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(s.Process.Stop)
	return s
}
