package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/machinenativeops/weir/lint"
	"github.com/machinenativeops/weir/mesh"
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
	return fmt.Errorf("--output %s: want %s", output, strings.Join(allowed, " or "))
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

func printProblems[P fmt.Stringer](w io.Writer, problems []P) {
	for _, p := range problems {
		fmt.Fprintln(w, p)
	}
}

func somePaths(_ *cobra.Command, paths []string) error {
	if len(paths) == 0 {
		return errors.New("PATH is missing: a file or directory of policy documents")
	}
	return nil
}

type validateOptions struct {
	output string
	strict bool
}

func newValidate() *cobra.Command {
	var o validateOptions
	cmd := &cobra.Command{
		Use:   "validate PATH...",
		Short: "Check policy documents: exit 0, or 1 with every error on standard error; what is doubtful is a warning",
		Args:  somePaths,
		RunE: func(cmd *cobra.Command, paths []string) error {
			if err := checkOutput(o.output, outputText, outputJSON); err != nil {
				return err
			}
			return validate(cmd, paths, o)
		},
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", outputText, "text or json")
	cmd.Flags().BoolVar(&o.strict, "strict", false, "exit 1 where there are warnings, too")
	return cmd
}

func validate(cmd *cobra.Command, paths []string, o validateOptions) error {
	set, problems, err := source.New(paths, slog.New(slog.DiscardHandler)).Load()
	if err != nil {
		return failed(err)
	}
	if len(problems) == 0 && isEmpty(set) {
		return failed(fmt.Errorf("%s: no documents: a directory's are in its files that end in .yaml or .yml", strings.Join(paths, ", ")))
	}
	warnings := lint.Check(set, mesh.Build(set), len(problems) == 0)
	if o.output == outputJSON {
		err = validateJSON(cmd.OutOrStdout(), problems, warnings)
	} else {
		validateText(cmd, set, problems, warnings)
	}
	if err == nil && (len(problems) > 0 || o.strict && len(warnings) > 0) {
		return errRefused
	}
	return err
}

// isEmpty says whether nobody has written anything of a set.
func isEmpty(s *policy.Set) bool {
	return len(s.Gateways)+len(s.Services)+len(s.Routes)+len(s.RateLimits) == 0 &&
		s.Mesh.Origin.File+s.Sampling.Origin.File+s.Retention.Origin.File == ""
}

func validateText(cmd *cobra.Command, set *policy.Set, problems []policy.Problem, warnings []lint.Warning) {
	errs := cmd.ErrOrStderr()
	printProblems(errs, problems)
	printProblems(errs, warnings)
	found := count(len(warnings), "warning")
	if len(problems) > 0 {
		found = count(len(problems), "error") + ", " + found
	}
	if len(problems)+len(warnings) > 0 {
		fmt.Fprintln(errs, found)
	}
	if len(problems) == 0 {
		fmt.Fprintf(cmd.OutOrStdout(), "valid: %s, %s, %s, %s\n",
			count(len(set.Gateways), "gateway"), count(len(set.Services), "service"),
			count(len(set.Routes), "route"), count(len(set.RateLimits), "rate limit"))
	}
}

func validateJSON(w io.Writer, problems []policy.Problem, warnings []lint.Warning) error {
	return writeJSON(w, struct {
		Valid    bool             `json:"valid"`
		Problems []policy.Problem `json:"problems"`
		Warnings []lint.Warning   `json:"warnings"`
	}{len(problems) == 0, listed(problems), listed(warnings)})
}

// listed is a list that JSON writes as one, though it be empty.
func listed[T any](all []T) []T {
	if all == nil {
		return []T{}
	}
	return all
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

var errOneProxy = errors.New("want exactly one of --gateway NAME and --service NAMESPACE/NAME, or of bootstrap and render --grpc NAME")
