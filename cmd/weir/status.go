package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/machinenativeops/weir/ratelimit"
	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

func newStatus() *cobra.Command {
	var address, output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Who is connected, what each proxy runs, what was refused and by whom; exit 1 if something is refused",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output, outputText, outputJSON); err != nil {
				return err
			}
			report, err := fetchStatus(cmd.Context(), address)
			if err != nil {
				return failed(err)
			}
			if output == outputJSON {
				err = writeJSON(cmd.OutOrStdout(), report)
			} else {
				err = printStatus(cmd.OutOrStdout(), report)
			}
			if err == nil && report.refused() {
				return errRefused
			}
			return err
		},
	}
	cmd.Flags().StringVar(&address, "http-address", defaultHTTPAddress, "the `HOST:PORT` of the status API of weir serve or weir ratelimit")
	cmd.Flags().StringVarP(&output, "output", "o", outputText, "text or json")
	return cmd
}

func fetchStatus(ctx context.Context, address string) (r statusReport, err error) {
	return r, fetch(ctx, address, "/api/v1/status", &r)
}

// fetch asks a running Weir.
func fetch(ctx context.Context, address, path string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask weir (is it running? --http-address says where): %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // the status says enough
		return fmt.Errorf("ask weir at %s: %s %s", address, resp.Status, strings.TrimSpace(string(text)))
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

// refused says whether documents or resources are refused.
func (r *statusReport) refused() bool {
	return r.XDS != nil && len(r.XDS.Refused) > 0 || r.Policy != nil && len(r.Policy.Problems) > 0
}

func printStatus(out io.Writer, r statusReport) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "weir %s, up %s\n", r.Version, time.Since(r.Started).Round(time.Second))
	switch {
	case r.XDS == nil:
		fmt.Fprintf(w, "the rate limit service alone, %s in use\n", count(int(r.RateLimit.Store.Keys), "counter"))
	case r.Policy == nil:
		fmt.Fprintln(w, "no policy is in force yet")
	default:
		printPolicy(w, r.Policy)
	}
	if r.XDS != nil {
		printProxies(w, r.XDS.Proxies)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := printLoadTests(out, r.LoadTests); err != nil {
		return err
	}
	if remote := r.RateLimit.Store.Remote; remote != nil {
		printRemote(out, remote)
	}
	if n := len(r.Sampling.Budget); n > 0 {
		fmt.Fprintf(out, "\n%s the budget of spans:\n", sharing(n))
		for _, c := range r.Sampling.Budget {
			fmt.Fprintf(out, "  %s has %.1f %%, and needs %.0f spans a second\n", c.Name, 100*c.Share, c.Needs)
		}
	}
	for _, route := range r.Sampling.Routes {
		fmt.Fprintf(out, "\nof %s, %g %% of the traces are made", route.Name, route.Percent)
	}
	if len(r.Sampling.Routes) > 0 {
		fmt.Fprintln(out)
	}
	if r.XDS != nil {
		for _, x := range r.XDS.Refused {
			printRefusal(out, x)
		}
	}
	return nil
}

func printProxies(w io.Writer, proxies []serve.Proxy) {
	fmt.Fprintf(w, "\nPROXY\tADDRESS\tENVOY\tPROTOCOL\tCONNECTED\tCLUSTERS\tROUTES\tSYNCED\n")
	for _, p := range proxies {
		synced := "no"
		switch {
		case !p.Known:
			synced = "no: no document of this name"
		case p.Synced:
			synced = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", p.Node, p.Address, p.Envoy, p.Protocol,
			time.Since(p.Connected).Round(time.Second), len(p.Types["Cluster"].Resources), len(p.Types["RouteConfiguration"].Resources), synced)
	}
}

func sharing(collectors int) string {
	if collectors == 1 {
		return "1 collector has"
	}
	return fmt.Sprintf("%d collectors share", collectors)
}

// printRemote says how it stands with the counters that replicas share.
func printRemote(out io.Writer, r *ratelimit.Remote) {
	state := "asked"
	if !r.Up {
		state = "NOT ASKED (" + r.Error + "): " + r.Fallback
	}
	fmt.Fprintf(out, "\nrate limits in %s: %s, since %s; %s\n  %d questions there in %d calls, %d answered here, %d ahead of it, %d alone, %d by onError\n",
		r.Kind, state, r.Since.Format(time.RFC3339), count(r.Replicas, "replica"), r.Asked, r.Calls, r.Local, r.Ahead, r.Alone, r.Refused)
}

// printRefusal says which resource it is, and which documents it is made of: the mistake is in one of those.
func printRefusal(w io.Writer, x serve.Refusal) {
	documents := make([]string, len(x.Sources))
	for i, d := range x.Sources {
		documents[i] = d.String()
	}
	instead := "the proxies keep what they have"
	if x.Serving != "" {
		instead = "version " + x.Serving + " is served instead"
	}
	if x.Type == xds.SecretType {
		instead = "the proxy keeps what it has, and reads the files when they come, which it does not tell: this stays until the proxy connects anew or is sent other files' names"
	}
	fmt.Fprintf(w, "\nrefused by %s: %s %s, of %s\n  %s\n  %s\n", x.Node, x.Type[strings.LastIndexByte(x.Type, '.')+1:], x.Name,
		strings.Join(documents, ", "), strings.ReplaceAll(x.Message, "\n", "\n  "), instead)
}

func printPolicy(w io.Writer, p *policyStatus) {
	fmt.Fprintf(w, "policy in force since %s (took %s): %s, %s, %s, %s\n", p.Applied.Format(time.RFC3339), p.Took,
		count(p.Documents["Gateway"], "gateway"), count(p.Documents["Service"], "service"),
		count(p.Documents["Route"], "route"), count(p.Documents["RateLimit"], "rate limit"))
	if len(p.Problems) > 0 {
		fmt.Fprintf(w, "refused: %s; what was good before is in force instead\n", count(len(p.Problems), "error"))
		printProblems(w, p.Problems)
	}
	printProblems(w, p.Warnings)
}
