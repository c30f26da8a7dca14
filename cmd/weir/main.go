// Weir is the control plane: it serves Envoys their configuration over xDS and answers their rate limit questions,
// as policy documents say. Its subcommands check, show and explain what it does.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes, the same for every subcommand.
const (
	exitRefused = 1 // documents or resources are refused
	exitDiffers = 1 // of weir diff --exit-code: something differs
	exitUsage   = 2 // the command line or its settings are wrong
	exitFailed  = 3 // what was asked could not be done
)

// exitError carries the exit code of an error that is not about usage.
type exitError struct {
	code int
	err  error // nil: everything has been said already
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func failed(err error) error { return &exitError{code: exitFailed, err: err} }

var errRefused = &exitError{code: exitRefused}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(exitCode(newRoot().ExecuteContext(ctx), os.Stderr))
}

// exitCode says what there is left to say of an error.
func exitCode(err error, errs io.Writer) int {
	if err == nil {
		return 0
	}
	code := exitUsage
	if exit, ok := errors.AsType[*exitError](err); ok {
		code = exit.code
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(errs, "weir: "+text)
	}
	return code
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "weir",
		Short:         "The control and telemetry plane for Envoy",
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return applySettings(cmd, os.LookupEnv)
		},
	}
	root.PersistentFlags().String("config", "", "a YAML `FILE` of flags, one a line, such as xds-address: 127.0.0.1:18000; a flag that is given and WEIR_XDS_ADDRESS in the environment win over it")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; `%s --help` lists the flags", err, cmd.CommandPath())
	})
	root.AddCommand(newServe(), newValidate(), newDiff(), newBootstrap(), newRender(), newExplain(), newStatus(), newImport(), newRateLimit())
	return root
}

// version is the module's version, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return info.Main.Version
}
