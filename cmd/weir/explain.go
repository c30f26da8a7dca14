package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/machinenativeops/weir/explain"
	"github.com/machinenativeops/weir/mesh"
)

type explainOptions struct {
	which           proxyFlags
	request, remote string
	headers         []string
	output          string
}

func newExplain() *cobra.Command {
	var o explainOptions
	cmd := &cobra.Command{
		Use:   "explain PATH... --request 'GET https://checkout.shop/cart'",
		Short: "Tell which rule takes a request, where it goes, and why; no server is needed",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error {
			if err := checkOutput(o.output, outputText, outputJSON); err != nil {
				return err
			}
			return explainRequest(cmd, paths, o)
		},
	}
	o.which.register(cmd)
	cmd.Flags().StringVar(&o.request, "request", "", "`METHOD URL`, or a URL alone, which is a GET")
	cmd.Flags().StringArrayVar(&o.headers, "header", nil, "a header of the request: `NAME: VALUE`; may be given again")
	cmd.Flags().StringVar(&o.remote, "remote-address", "", "the `IP` that the request comes from (default 192.0.2.1, which is nobody's)")
	cmd.Flags().StringVarP(&o.output, "output", "o", outputText, "text or json")
	return cmd
}

func explainRequest(cmd *cobra.Command, paths []string, o explainOptions) error {
	if o.request == "" {
		return fmt.Errorf("--request is missing: want a method and a URL, such as 'GET https://checkout.shop/cart'")
	}
	request, err := explain.ParseRequest(o.request, o.headers)
	if err != nil {
		return fmt.Errorf("--request or --header: %w", err)
	}
	if o.remote != "" {
		if request.RemoteAddress, err = netip.ParseAddr(o.remote); err != nil {
			return fmt.Errorf("--remote-address %s: want an IP address", o.remote)
		}
	}
	var proxy *mesh.Proxy
	if o.which != (proxyFlags{}) {
		p, err := o.which.proxy()
		if err != nil {
			return err
		}
		proxy = &p
	}
	set, err := loadStrict(paths, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	x, err := explain.Explain(mesh.Build(set), proxy, request, time.Now())
	if err != nil {
		return failed(err)
	}
	if o.output == outputJSON {
		return writeJSON(cmd.OutOrStdout(), x)
	}
	_, err = fmt.Fprint(cmd.OutOrStdout(), x.Text())
	return err
}
