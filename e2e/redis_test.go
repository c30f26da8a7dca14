package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/internal/servers"
)

// TestReplicasShareRedis: two programs with one Redis let one limit pass together, also when that is gone, and come back
// to it.
func TestReplicasShareRedis(t *testing.T) {
	redis := servers.RunRedis(t, "--requirepass wonder")
	dir, secret := t.TempDir(), filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(secret, []byte("wonder\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "shop.yaml"), []byte("domain: shop\ndescriptors:\n- {key: user, rate_limit: {unit: year, requests_per_unit: 10}}\n"), 0o600))
	var replicas []*world
	for range 2 {
		ports := freePorts(t, 2)
		w := &world{t: t, http: "http://" + ports[1], client: http.DefaultClient, args: []string{
			"ratelimit", "--config", dir, "--address", ports[0], "--http-address", ports[1],
			"--redis", "redis://" + redis.Address, "--redis-password-file", secret, "--redis-lease", "0", "--redis-timeout", "5s",
		}}
		w.startWeir()
		replicas = append(replicas, w)
	}
	passes := func(user string) int {
		passed := 0
		for i := range 30 {
			resp, err := replicas[i%2].client.Post(replicas[i%2].http+"/json", "application/json",
				bytes.NewReader(fmt.Appendf(nil, `{"domain":"shop","descriptors":[{"entries":[{"key":"user","value":%q}]}]}`, user)))
			must(t, err)
			_ = resp.Body.Close()
			switch resp.StatusCode {
			case http.StatusOK:
				passed++
			case http.StatusTooManyRequests:
			default:
				t.Fatal(resp.Status)
			}
		}
		return passed
	}
	up := func(want bool) func() error {
		return func() error {
			for _, w := range replicas {
				resp, err := w.client.Get(w.http + "/api/v1/status")
				if err != nil {
					return err
				}
				var status struct {
					RateLimit struct {
						Store struct {
							Remote struct {
								Up       bool
								Replicas int
							}
						}
					}
				}
				err = json.NewDecoder(resp.Body).Decode(&status)
				_ = resp.Body.Close()
				if err != nil {
					return err
				}
				if r := status.RateLimit.Store.Remote; r.Up != want || r.Replicas != 2 {
					return fmt.Errorf("%+v", r)
				}
			}
			return nil
		}
	}
	replicas[0].eventually("both are there", up(true))
	if n := passes("acme"); n != 10 {
		t.Errorf("%d passed of a limit of 10", n)
	}
	must(t, redis.Kill())
	replicas[0].eventually("redis is left alone", up(false))
	if n := passes("other"); n != 10 {
		t.Errorf("%d passed of a limit of 10, by shares", n)
	}
	must(t, redis.Restart(t.Context()))
	replicas[0].eventually("redis is asked again", up(true))
	// Each charges what it has let pass with its first question: the first of all comes before the other one's.
	if n := passes("other"); n > 1 {
		t.Errorf("%d more passed: what passed without redis is charged", n)
	}
	for _, w := range replicas {
		log := w.weir.Tail(1 << 20)
		if strings.Contains(log, "wonder") {
			t.Error("the password is in the log")
		}
		if !strings.Contains(log, "redis is not asked") {
			t.Error("the log does not tell:", log)
		}
	}
}
