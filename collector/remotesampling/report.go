package remotesampling

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/machinenativeops/weir/collector/remotesampling/internal/metadata"
	"github.com/machinenativeops/weir/sampling/fleet"
	"github.com/machinenativeops/weir/sampling/proxies"
)

// reporter tells each Weir now and then what proxies need not make, and what the processors need of the budgets, and tells them
// which shares of those are theirs: of several, the lowest that any Weir says.
type reporter struct {
	*processors
	budget bool // shares are asked for
	held   fleet.Held
	last   proxies.Report
	client *http.Client
	weirs  []*weir
	log    *zap.Logger
	told   *metadata.TelemetryBuilder
}

// weir is one that is told.
type weir struct {
	url     string
	failing bool
}

const (
	maxAnswer = 4 << 20         // bytes
	maxLeave  = 5 * time.Second // so long a collector that ends may wait for Weir
)

// weirsAt are those at the endpoints. This collector has a new name each time that it starts, since it knows nothing then.
func weirsAt(endpoints []string) (all []*weir) {
	name := rand.Uint64()
	for _, endpoint := range endpoints {
		all = append(all, &weir{url: fmt.Sprintf("%s/api/v1/sampling/collectors/%016x", strings.TrimRight(endpoint, "/"), name)})
	}
	return all
}

func (r *reporter) run(ctx context.Context, interval time.Duration) {
	defer r.client.CloseIdleConnections()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			r.leave(ctx)
			return
		case <-r.joined: // it has no share until it reports
		case <-tick.C:
		}
		now := time.Now()
		r.last = r.report(now)
		if answer := r.tellAll(ctx); answer != nil {
			r.held = r.held.Told(*answer, now)
		}
		if r.budget {
			r.share(r.held, now)
		}
	}
}

// tellAll tells all at the same time. It gives what they say of the budget; nil if nobody says anything.
func (r *reporter) tellAll(ctx context.Context) (said *fleet.Answer) {
	answers := make([]proxies.Answer, len(r.weirs))
	var asking sync.WaitGroup
	for i, w := range r.weirs {
		asking.Go(func() {
			var err error
			answers[i], err = r.tell(ctx, w, r.last)
			r.note(ctx, w, err)
		})
	}
	asking.Wait()
	for _, answer := range answers {
		if b := answer.Budget; b != nil && said != nil {
			lowest := said.Lowest(*b)
			said = &lowest
		} else if b != nil {
			said = b
		}
	}
	return said
}

// leave gives the shares back, so that the others have them at once. What is not worth making stays as it is for a while.
func (r *reporter) leave(ctx context.Context) {
	if r.last.Budget == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxLeave)
	defer cancel()
	r.last.Budget = nil
	var asking sync.WaitGroup
	defer asking.Wait()
	for _, w := range r.weirs {
		if w.failing {
			continue
		}
		asking.Go(func() {
			if _, err := r.tell(ctx, w, r.last); err != nil {
				r.log.Debug("Weir is not told that this collector ends: its share of the budget is the others' in a while", zap.String("url", w.url), zap.Error(err))
			}
		})
	}
}

// report is what the processors want. Of several, the highest share holds for a route.
func (r *reporter) report(now time.Time) proxies.Report {
	shares := map[string]float64{}
	for _, source := range r.sources(now) {
		for route, share := range source.Routes() {
			shares[route] = max(shares[route], share)
		}
	}
	report := proxies.Report{Routes: []proxies.Route{}}
	for route, share := range shares {
		report.Routes = append(report.Routes, proxies.Route{Name: route, Percent: 100 * share})
	}
	slices.SortFunc(report.Routes, func(a, b proxies.Route) int { return cmp.Compare(a.Name, b.Name) })
	if r.budget {
		report.Budget = r.needs(now)
	}
	return report
}

func (r *reporter) tell(ctx context.Context, w *weir, report proxies.Report) (answer proxies.Answer, err error) {
	body, err := json.Marshal(report)
	if err != nil {
		return answer, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, w.url, bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return answer, err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode != http.StatusOK {
		return answer, fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(said[:min(len(said), 1000)])))
	}
	if err != nil {
		return answer, err
	}
	err = json.Unmarshal(said, &answer)
	if err == nil {
		err = answer.Validate()
	}
	if err != nil {
		return proxies.Answer{}, fmt.Errorf("its answer: %w", err)
	}
	return answer, nil
}

// note counts, and logs the first failure and the end of failing.
func (r *reporter) note(ctx context.Context, w *weir, err error) {
	if ctx.Err() != nil {
		return
	}
	r.told.ExtensionRemoteSamplingReports.Add(ctx, 1, metric.WithAttributes(attribute.Bool("taken", err == nil)))
	if failing := err != nil; failing != w.failing {
		if w.failing = failing; failing {
			r.log.Warn("Weir takes no reports: the proxies' sampling and, if no other Weir does, the share of the budget stay, and go back to what the documents and the setting replicas say", zap.String("url", w.url), zap.Error(err))
		} else {
			r.log.Info("Weir takes reports again", zap.String("url", w.url))
		}
	}
}
