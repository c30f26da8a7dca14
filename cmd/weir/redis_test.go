package main

import (
	"log/slog"
	"strings"
	"testing"
)

func TestWrongRedisIsRefusedByName(t *testing.T) {
	for _, c := range []struct {
		o    func(*redisOptions)
		want string
	}{
		{func(o *redisOptions) { o.URLs = []string{"redis://weir:wonder@127.0.0.1"} }, "a password is not for a URL"},
		{func(o *redisOptions) { o.URLs = []string{"redis://redis.example.com"} }, "--redis-plaintext"},
		{func(o *redisOptions) { o.URLs = []string{"redis://127.0.0.1/first"} }, "want a number for the database"},
		{func(o *redisOptions) { o.URLs = []string{"127.0.0.1:6379"} }, "want redis://"},
		{func(o *redisOptions) { o.URLs = []string{"redis://127.0.0.1:1", "redis://127.0.0.1:2"} }, "say which"},
		{func(o *redisOptions) { o.Master, o.Cluster = "main", true }, "give one"},
		{func(o *redisOptions) { o.Lease = 0.6 }, "from 0 to 0.5"},
		{func(o *redisOptions) { o.Ahead = -0.1 }, "from 0 to 0.5"},
		{func(o *redisOptions) { o.fallback = "pass" }, "want share or error"},
		{func(o *redisOptions) { o.cert = "cert.pem" }, "give both"},
		{func(o *redisOptions) { o.ca = "/nowhere" }, "--redis-ca"},
	} {
		o := redisOptions{fallback: fallbackShare}
		o.URLs = []string{"redis://127.0.0.1"}
		c.o(&o)
		_, err := o.open(slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "wonder") {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
}
