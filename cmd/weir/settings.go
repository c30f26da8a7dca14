package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// applySettings fills each flag that was not given from the environment (--xds-address is WEIR_XDS_ADDRESS), or else
// from the configuration file that --config or WEIR_CONFIG names. A list is written with commas, or as YAML's own.
// The file and the environment are for all commands: what is another one's is passed over.
func applySettings(cmd *cobra.Command, env func(string) (string, bool)) error {
	flags := cmd.Flags()
	if err := setFromEnv(flags, env, ownConfig(cmd)); err != nil {
		return err
	}
	var file string
	var err error
	if ownConfig(cmd) {
		file, _ = env("WEIR_CONFIG")
	} else {
		file, err = flags.GetString(configFlag)
	}
	if err != nil || file == "" {
		return err
	}
	known := make(map[string]bool)
	for _, command := range cmd.Root().Commands() {
		command.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) { known[f.Name] = f.Name != helpFlag && f.Name != configFlag })
	}
	return setFromFile(flags, file, known)
}

const (
	helpFlag   = "help" // asks for something and sets nothing
	configFlag = "config"
)

// ownConfig says of a command that its --config is not the file of settings, which only WEIR_CONFIG names there.
func ownConfig(cmd *cobra.Command) bool {
	return cmd.LocalNonPersistentFlags().Lookup(configFlag) != nil
}

func setFromEnv(flags *pflag.FlagSet, env func(string) (string, bool), ownConfig bool) error {
	var err error
	flags.VisitAll(func(f *pflag.Flag) {
		name := "WEIR_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := env(name)
		if !ok || f.Changed || f.Name == helpFlag || f.Name == configFlag && ownConfig || err != nil {
			return
		}
		if e := flags.Set(f.Name, value); e != nil {
			err = fmt.Errorf("environment variable %s: %w", name, e)
		}
	})
	return err
}

func setFromFile(flags *pflag.FlagSet, file string, known map[string]bool) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var lines map[string]any
	if err := yaml.Unmarshal(data, &lines); err != nil {
		return fmt.Errorf("--config %s: want FLAG: VALUE a line: %w", file, err)
	}
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		if !known[name] {
			return fmt.Errorf("--config %s: %s: no command has such a flag; `weir help COMMAND` lists them", file, name)
		}
		if f := flags.Lookup(name); f == nil || f.Changed {
			continue
		}
		if err := setFlag(flags, name, lines[name]); err != nil {
			return fmt.Errorf("--config %s: %s: %w", file, name, err)
		}
	}
	return nil
}

var errScalar = errors.New("want a value, or a list of them")

func setFlag(flags *pflag.FlagSet, name string, value any) error {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	for _, v := range list {
		switch v.(type) {
		case string, bool, int, float64:
		default:
			return errScalar
		}
		if err := flags.Set(name, fmt.Sprint(v)); err != nil {
			return err
		}
	}
	return nil
}
