package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// applySettings fills each flag that was not given from the environment (--xds-address is WEIR_XDS_ADDRESS), or else
// from the configuration file that --config or WEIR_CONFIG names. A list is written with commas, or as YAML's own.
func applySettings(flags *pflag.FlagSet, env func(string) (string, bool)) error {
	if err := setFromEnv(flags, env); err != nil {
		return err
	}
	file, err := flags.GetString("config")
	if err != nil || file == "" {
		return err
	}
	return setFromFile(flags, file)
}

func setFromEnv(flags *pflag.FlagSet, env func(string) (string, bool)) error {
	var err error
	flags.VisitAll(func(f *pflag.Flag) {
		name := "WEIR_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := env(name)
		if !ok || f.Changed || err != nil {
			return
		}
		if e := flags.Set(f.Name, value); e != nil {
			err = fmt.Errorf("environment variable %s: %w", name, e)
		}
	})
	return err
}

func setFromFile(flags *pflag.FlagSet, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var lines map[string]any
	if err := yaml.Unmarshal(data, &lines); err != nil {
		return fmt.Errorf("--config %s: %w", file, err)
	}
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		f := flags.Lookup(name)
		if f == nil || name == "config" {
			return fmt.Errorf("--config %s: %s: no such flag; `weir help COMMAND` lists them", file, name)
		}
		if f.Changed {
			continue
		}
		if err := setFlag(flags, name, lines[name]); err != nil {
			return fmt.Errorf("--config %s: %s: %w", file, name, err)
		}
	}
	return nil
}

func setFlag(flags *pflag.FlagSet, name string, value any) error {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	for _, v := range list {
		if err := flags.Set(name, fmt.Sprint(v)); err != nil {
			return err
		}
	}
	return nil
}
