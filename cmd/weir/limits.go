package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/machinenativeops/weir/ratelimit"
)

// limitsAPI tells of keys, for weir ratelimit check and top.
func limitsAPI(mux *http.ServeMux, limits *ratelimit.Service) {
	mux.HandleFunc("GET /api/v1/ratelimit/top", func(w http.ResponseWriter, r *http.Request) {
		n := 20
		if text := r.URL.Query().Get("n"); text != "" {
			var err error
			if n, err = strconv.Atoi(text); err != nil || n < 1 {
				writeText(w, http.StatusBadRequest, "n: want a number above 0\n")
				return
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = writeJSON(w, limits.Top(n)) // a client that went away needs no answer
	})
	mux.HandleFunc("GET /api/v1/ratelimit/check", func(w http.ResponseWriter, r *http.Request) {
		domain, d, err := ratelimit.ParseDescriptor(r.URL.Query().Get("descriptor"))
		if err != nil {
			writeText(w, http.StatusBadRequest, err.Error()+"\n")
			return
		}
		found, err := limits.Check(r.Context(), domain, d)
		switch {
		case errors.Is(err, ratelimit.ErrNoLimit):
			writeText(w, http.StatusNotFound, err.Error()+"\n")
		case err != nil:
			writeText(w, http.StatusServiceUnavailable, err.Error()+"\n")
		default:
			w.Header().Set("Content-Type", "application/json")
			_ = writeJSON(w, found) // as above
		}
	})
}

func newLimitCheck() *cobra.Command {
	var address, output string
	cmd := &cobra.Command{
		Use:   "check 'domain=DOMAIN KEY=VALUE...'",
		Short: "Where a key stands at its limit, without counting anything; exit 1 if it would be refused",
		Long: "Asks a running weir serve or weir ratelimit. A limit of a RateLimit document is\n" +
			"'domain=weir limit=limit/NAMESPACE/NAME/INDEX KEY=VALUE...', with the keys in the order of its by.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("want one descriptor, in quotes: 'domain=DOMAIN KEY=VALUE...', got %d", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output, outputText, outputJSON); err != nil {
				return err
			}
			if _, _, err := ratelimit.ParseDescriptor(args[0]); err != nil {
				return err
			}
			var s ratelimit.Standing
			if err := fetch(cmd.Context(), address, "/api/v1/ratelimit/check?descriptor="+url.QueryEscape(args[0]), &s); err != nil {
				return failed(err)
			}
			var err error
			if output == outputJSON {
				err = writeJSON(cmd.OutOrStdout(), s)
			} else {
				err = printStanding(cmd.OutOrStdout(), s)
			}
			if err == nil && !s.Allowed && !s.Shadow {
				return errRefused
			}
			return err
		},
	}
	limitFlags(cmd, &address, &output)
	return cmd
}

func limitFlags(cmd *cobra.Command, address, output *string) {
	cmd.Flags().StringVar(address, "http-address", defaultHTTPAddress, "the `HOST:PORT` of the status API of weir serve or weir ratelimit")
	cmd.Flags().StringVarP(output, "output", "o", outputText, "text or json")
}

func printStanding(out io.Writer, s ratelimit.Standing) error {
	answer := "would pass"
	switch {
	case !s.Allowed && s.Shadow:
		answer = "would pass, since the limit is a shadow, and be counted as refused"
	case !s.Allowed:
		answer = "would be refused, for another " + s.RetryAfter
	}
	if s.Algorithm == ratelimit.Unlimited.String() {
		_, err := fmt.Fprintf(out, "%s: unlimited\n", s.Limit)
		return err
	}
	_, err := fmt.Fprintf(out, "%s: %d per %s (%s)\none more request %s\n%d remaining, as never used in %s\n",
		s.Limit, s.Requests, s.Per, s.Algorithm, answer, s.Remaining, s.Reset)
	return err
}

func newLimitTop() *cobra.Command {
	var address, output string
	var n int
	cmd := &cobra.Command{
		Use:   "top",
		Short: "The keys that were refused, and used, the most of late",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output, outputText, outputJSON); err != nil {
				return err
			}
			if n < 1 {
				return errors.New("-n: want a number above 0")
			}
			var top ratelimit.Top
			if err := fetch(cmd.Context(), address, "/api/v1/ratelimit/top?n="+strconv.Itoa(n), &top); err != nil {
				return failed(err)
			}
			if output == outputJSON {
				return writeJSON(cmd.OutOrStdout(), top)
			}
			return printTop(cmd.OutOrStdout(), top)
		},
	}
	limitFlags(cmd, &address, &output)
	cmd.Flags().IntVarP(&n, "count", "n", 20, "how many of each")
	return cmd
}

func printTop(out io.Writer, top ratelimit.Top) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, one := range []struct {
		what string
		keys []ratelimit.TopKey
	}{{"REFUSED", top.Refused}, {"USED", top.Used}} {
		fmt.Fprintf(w, "%s\tLIMIT\tKEY\n", one.what)
		for _, k := range one.keys {
			count := strconv.FormatUint(k.Count, 10)
			if k.Error > 0 {
				count = strconv.FormatUint(k.Count-k.Error, 10) + "-" + count
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", count, k.Limit, strings.Join(k.Key, " "))
		}
	}
	fmt.Fprintf(w, "a hit counts for half after %s\n", top.HalfLife)
	return w.Flush()
}
