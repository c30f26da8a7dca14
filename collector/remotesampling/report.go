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
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/machinenativeops/weir/collector/remotesampling/internal/metadata"
	"github.com/machinenativeops/weir/sampling/proxies"
)

// reporter tells Weir now and then what proxies need not make.
type reporter struct {
	*processors
	client  *http.Client
	url     string
	log     *zap.Logger
	told    *metadata.TelemetryBuilder
	failing bool
}

// reportURL is this collector's own: it has a new name each time that it starts, since it knows nothing then.
func reportURL(endpoint string) string {
	return fmt.Sprintf("%s/api/v1/sampling/collectors/%016x", strings.TrimRight(endpoint, "/"), rand.Uint64())
}

func (r *reporter) run(ctx context.Context, interval time.Duration) {
	defer r.client.CloseIdleConnections()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			r.note(ctx, r.tell(ctx, r.report(now)))
		}
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
	return report
}

func (r *reporter) tell(ctx context.Context, report proxies.Report) error {
	body, err := json.Marshal(report)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, r.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 1000)) // it is for the message only
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(said)))
	}
	return nil
}

// note counts, and logs the first failure and the end of failing.
func (r *reporter) note(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	r.told.ExtensionRemoteSamplingReports.Add(ctx, 1, metric.WithAttributes(attribute.Bool("taken", err == nil)))
	if failing := err != nil; failing != r.failing {
		if r.failing = failing; failing {
			r.log.Warn("Weir takes no reports: the proxies' sampling stays, and goes back to what the documents say", zap.Error(err))
		} else {
			r.log.Info("Weir takes reports again")
		}
	}
}
