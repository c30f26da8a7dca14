package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"github.com/spf13/cobra"

	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/policy/source"
)

const (
	outputText = "text"
	outputJSON = "json"
	outputYAML = "yaml"
)

func checkOutput(output string, allowed ...string) error {
	if slices.Contains(allowed, output) {
		return nil
	}
	return fmt.Errorf("--output %s: want one of %v", output, allowed)
}

// loadStrict reads the documents for a command that is of no use with a part of them only: it writes every problem
// to errs and gives errRefused if there is one.
func loadStrict(paths []string, errs io.Writer) (*policy.Set, error) {
	set, problems, err := source.New(paths, slog.New(slog.DiscardHandler)).Load()
	if err != nil {
		return nil, failed(err)
	}
	if len(problems) > 0 {
		printProblems(errs, problems)
		return nil, errRefused
	}
	return set, nil
}

func printProblems(w io.Writer, problems []policy.Problem) {
	for _, p := range problems {
		fmt.Fprintln(w, p)
	}
}

func newValidate() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "validate PATH...",
		Short: "Check policy documents: exit 0, or 1 with every error on standard error",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error {
			if err := checkOutput(output, outputText, outputJSON); err != nil {
				return err
			}
			return validate(cmd, paths, output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", outputText, "text or json")
	return cmd
}

func validate(cmd *cobra.Command, paths []string, output string) error {
	set, problems, err := source.New(paths, slog.New(slog.DiscardHandler)).Load()
	if err != nil {
		return failed(err)
	}
	if output == outputJSON {
		return validateJSON(cmd.OutOrStdout(), problems)
	}
	if len(problems) > 0 {
		printProblems(cmd.ErrOrStderr(), problems)
		fmt.Fprintf(cmd.ErrOrStderr(), "%s\n", count(len(problems), "error"))
		return errRefused
	}
	fmt.Fprintf(cmd.OutOrStdout(), "valid: %s, %s, %s, %s\n",
		count(len(set.Gateways), "gateway"), count(len(set.Services), "service"),
		count(len(set.Routes), "route"), count(len(set.RateLimits), "rate limit"))
	return nil
}

func validateJSON(w io.Writer, problems []policy.Problem) error {
	if problems == nil {
		problems = []policy.Problem{}
	}
	err := writeJSON(w, struct {
		Valid    bool             `json:"valid"`
		Problems []policy.Problem `json:"problems"`
	}{len(problems) == 0, problems})
	if err == nil && len(problems) > 0 {
		return errRefused
	}
	return err
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return failed(fmt.Errorf("write output: %w", err))
	}
	return nil
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

var errOneProxy = errors.New("want exactly one of --gateway NAME and --service NAMESPACE/NAME")
