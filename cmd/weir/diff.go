package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/machinenativeops/weir/diff"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/policy/source"
)

// stdin is the path that stands for standard input.
const stdin = "-"

type diffOptions struct {
	output   string
	exitCode bool
}

func newDiff() *cobra.Command {
	var o diffOptions
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "What an edit changes in effect: rules, shares, limits, endpoints, and the resources that proxies are sent",
		Long: "What an edit changes in effect, in words and as the resources that proxies are sent. OLD and NEW are files or " +
			"directories of documents; one of them may be - for standard input.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, paths []string) error {
			if err := checkOutput(o.output, outputText, outputJSON); err != nil {
				return err
			}
			if paths[0] == stdin && paths[1] == stdin {
				return errors.New("only one of OLD and NEW can be standard input")
			}
			return runDiff(cmd, paths, o)
		},
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", outputText, "text or json")
	cmd.Flags().BoolVar(&o.exitCode, "exit-code", false, "exit 1 where something differs")
	return cmd
}

func runDiff(cmd *cobra.Command, paths []string, o diffOptions) error {
	var sets [2]*policy.Set
	refused := false
	for i, path := range paths {
		set, problems, err := loadOne(path, cmd.InOrStdin())
		if err != nil {
			return failed(err)
		}
		printProblems(cmd.ErrOrStderr(), problems)
		sets[i], refused = set, refused || len(problems) > 0
	}
	if refused {
		return errRefused
	}
	report, err := diff.Compare(sets[0], sets[1])
	if err != nil {
		return failed(err)
	}
	if o.output == outputJSON {
		err = writeJSON(cmd.OutOrStdout(), report)
	} else {
		report.Text(cmd.OutOrStdout())
	}
	if err == nil && o.exitCode && !report.Equal {
		return &exitError{code: exitDiffers}
	}
	return err
}

// loadOne reads the documents at a path, or on standard input.
func loadOne(path string, in io.Reader) (*policy.Set, []policy.Problem, error) {
	if path != stdin {
		return source.New([]string{path}, slog.New(slog.DiscardHandler)).Load()
	}
	text, err := io.ReadAll(in)
	if err != nil {
		return nil, nil, fmt.Errorf("read policy: standard input: %w", err)
	}
	set, problems := policy.Load([]policy.File{{Name: stdin, Data: text}}, nil)
	return set, problems, nil
}
