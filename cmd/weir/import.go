package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/machinenativeops/weir/importer"
	"github.com/machinenativeops/weir/policy"
)

type importOptions struct {
	from, namespace, file, output string
	strict                        bool
}

func newImport() *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "import PATH...",
		Short: "Translate Gateway API's or Istio's routes into policy documents, and tell what is not carried over",
		Long: "Translate Gateway API's or Istio's routes into policy documents, on standard output, and tell on standard error what\n" +
			"is not carried over. A PATH is a file, a directory, or - for standard input.\n\n" +
			"Exit code 0; 1 for input that can't be read, and with --strict where something is not carried over.",
		Args: func(_ *cobra.Command, paths []string) error {
			if len(paths) == 0 {
				return errors.New("PATH is missing: a file or directory of Kubernetes objects, or - for standard input")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, paths []string) error {
			if err := checkOutput(o.output, outputText, outputJSON); err != nil {
				return err
			}
			if all := []string{importer.FromAuto, importer.FromGatewayAPI, importer.FromIstio}; !slices.Contains(all, o.from) {
				return fmt.Errorf("--from %s: want one of %v", o.from, all)
			}
			return importPaths(cmd, paths, o)
		},
	}
	cmd.Flags().StringVar(&o.from, "from", importer.FromAuto, "what to read: gateway-api, istio, or auto for both")
	cmd.Flags().StringVarP(&o.namespace, "namespace", "n", importer.DefaultNamespace, "the `NAMESPACE` of objects that name none")
	cmd.Flags().StringVarP(&o.file, "file", "o", "", "write the documents into this `FILE`")
	cmd.Flags().StringVar(&o.output, "output", outputText, "text, or json for documents and notes as one object")
	cmd.Flags().BoolVar(&o.strict, "strict", false, "exit 1 where something is not carried over")
	return cmd
}

func importPaths(cmd *cobra.Command, paths []string, o importOptions) error {
	files, err := manifests(paths, cmd.InOrStdin())
	if err != nil {
		return &exitError{code: exitRefused, err: err}
	}
	result, err := importer.Import(files, importer.Options{From: o.from, Namespace: o.namespace})
	if err != nil {
		return &exitError{code: exitRefused, err: err}
	}
	if err := writeImport(cmd, result, o); err != nil {
		return failed(err)
	}
	if o.strict && result.Lost() > 0 {
		return errRefused
	}
	return nil
}

func writeImport(cmd *cobra.Command, result *importer.Result, o importOptions) error {
	out := cmd.OutOrStdout()
	if o.file != "" {
		if err := os.WriteFile(o.file, result.YAML(), 0o644); err != nil {
			return err
		}
	}
	if o.output == outputJSON {
		return importJSON(out, result)
	}
	for _, n := range result.Notes {
		fmt.Fprintln(cmd.ErrOrStderr(), n)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s; not carried over: %s\n", count(len(result.Documents), "document"), count(result.Lost(), "thing"))
	if o.file != "" {
		return nil
	}
	_, err := out.Write(result.YAML())
	return err
}

func importJSON(out io.Writer, result *importer.Result) error {
	report := struct {
		Documents []any           `json:"documents"`
		Notes     []importer.Note `json:"notes"`
	}{make([]any, len(result.Documents)), result.Notes}
	for i, d := range result.Documents {
		if err := yaml.Unmarshal(d.YAML, &report.Documents[i]); err != nil {
			return err
		}
	}
	if report.Notes == nil {
		report.Notes = []importer.Note{}
	}
	return writeJSON(out, report)
}

// manifests reads files, directories and standard input.
func manifests(paths []string, in io.Reader) ([]policy.File, error) {
	var files []policy.File
	for _, path := range paths {
		if path == stdin {
			data, err := io.ReadAll(in)
			if err != nil {
				return nil, fmt.Errorf("read standard input: %w", err)
			}
			files = append(files, policy.File{Name: stdin, Data: data})
			continue
		}
		before := len(files)
		err := filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || name != path && !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
				return err
			}
			data, err := os.ReadFile(name)
			files = append(files, policy.File{Name: name, Data: data})
			return err
		})
		if err != nil {
			return nil, err
		}
		if len(files) == before {
			return nil, errors.New(path + ": no .yaml, .yml or .json file is in it")
		}
	}
	return files, nil
}
