package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
	"github.com/machinenativeops/weir/xds"
	"github.com/machinenativeops/weir/xds/serve"
)

// proxyFlags say which proxy a command is about.
type proxyFlags struct{ gateway, service, grpc string }

func (f *proxyFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.gateway, "gateway", "", "the proxy is this gateway: `[NAMESPACE/]NAME`")
	cmd.Flags().StringVar(&f.service, "service", "", "the proxy is beside this service: `[NAMESPACE/]NAME`")
}

// registerGRPC is for commands that know of programs that take part without a proxy.
func (f *proxyFlags) registerGRPC(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.grpc, "grpc", "", "no proxy, but a program whose gRPC library takes part by itself: `[NAMESPACE/]NAME` as you like")
}

func (f *proxyFlags) proxy() (mesh.Proxy, error) {
	switch {
	case f.gateway != "" && f.service+f.grpc == "":
		return proxyOf(mesh.RoleGateway, "--gateway", f.gateway)
	case f.service != "" && f.gateway+f.grpc == "":
		return proxyOf(mesh.RoleService, "--service", f.service)
	case f.grpc != "" && f.gateway+f.service == "":
		return proxyOf(mesh.RoleGRPC, "--grpc", f.grpc)
	}
	return mesh.Proxy{}, errOneProxy
}

var refPattern = regexp.MustCompile(`^([a-z0-9-]+/)?[a-z0-9-]+$`)

func proxyOf(role mesh.Role, flag, name string) (mesh.Proxy, error) {
	if !refPattern.MatchString(name) {
		return mesh.Proxy{}, fmt.Errorf("%s %s: want [NAMESPACE/]NAME, as the document has them", flag, name)
	}
	return mesh.Proxy{Role: role, Ref: policy.ParseRef(name, "")}, nil
}

func newRender() *cobra.Command {
	var (
		which  proxyFlags
		output string
	)
	cmd := &cobra.Command{
		Use:   "render PATH... --gateway NAME | --service NAMESPACE/NAME | --grpc NAME",
		Short: "Print the Envoy resources that a proxy would be served; no server is needed",
		Args:  somePaths,
		RunE: func(cmd *cobra.Command, paths []string) error {
			if err := checkOutput(output, outputYAML, outputJSON); err != nil {
				return err
			}
			proxy, err := which.proxy()
			if err != nil {
				return err
			}
			return render(cmd, paths, proxy, output)
		},
	}
	which.register(cmd)
	which.registerGRPC(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", outputYAML, "yaml or json")
	return cmd
}

func render(cmd *cobra.Command, paths []string, proxy mesh.Proxy, output string) error {
	set, err := loadStrict(paths, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	snapshot, err := xds.Translate(mesh.At(set, time.Now()), xds.Options{})
	if err != nil {
		return failed(err)
	}
	view, ok := snapshot.View(proxy)
	if !ok {
		return failed(fmt.Errorf("%s: no document of that kind and name in %v", proxy, paths))
	}
	text, err := xds.Render(view, output == outputJSON)
	if err != nil {
		return failed(err)
	}
	_, err = cmd.OutOrStdout().Write(text)
	return err
}

type bootstrapOptions struct {
	which                                 proxyFlags
	zone, cluster, xdsAddr, admin, nodeID string
	peers                                 []string
}

func newBootstrap() *cobra.Command {
	var o bootstrapOptions
	cmd := &cobra.Command{
		Use:   "bootstrap --gateway NAME | --service NAMESPACE/NAME | --grpc NAME",
		Short: "Print the bootstrap of an Envoy, or of a gRPC library, that takes its configuration from Weir",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			proxy, err := o.which.proxy()
			if err != nil {
				return err
			}
			write := bootstrap
			if proxy.Role == mesh.RoleGRPC {
				write = bootstrapGRPC
			}
			text, err := write(proxy, o)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	o.which.register(cmd)
	o.which.registerGRPC(cmd)
	cmd.Flags().StringVar(&o.zone, "zone", "", "the zone that the proxy runs in")
	cmd.Flags().StringVar(&o.cluster, "cluster", "", "the cluster that the proxy runs in")
	cmd.Flags().StringVar(&o.xdsAddr, "xds", defaultXDSAddress, "`HOST:PORT` of weir serve's xDS address, as the proxy reaches it")
	cmd.Flags().StringVar(&o.admin, "admin", "", "`HOST:PORT` of Envoy's admin interface; off by default")
	cmd.Flags().StringSliceVar(&o.peers, "peers", nil, "`HOST:PORT` of all proxies like this one, itself among them, for limits with fairShare: a name that resolves to them, or the addresses")
	cmd.Flags().StringVar(&o.nodeID, "node-id", "", "the node's id (default: ROLE~NAME~hostname)")
	return cmd
}

// object is a YAML mapping of Envoy's bootstrap.
type object = map[string]any

// bootstrap writes what an Envoy needs to find Weir; everything else comes over xDS.
func bootstrap(proxy mesh.Proxy, o bootstrapOptions) ([]byte, error) {
	xdsAddress, err := socketAddress(o.xdsAddr)
	if err != nil {
		return nil, fmt.Errorf("--xds %w", err)
	}
	node, err := bootstrapNode(proxy, o)
	if err != nil {
		return nil, err
	}
	ads := object{"ads": object{}, "resource_api_version": "V3"}
	clusters := object{"load_stats_config": object{
		// How requests fare, while Weir asks for it.
		"api_type":              "GRPC",
		"transport_api_version": "V3",
		"grpc_services":         []any{object{"envoy_grpc": object{"cluster_name": xdsCluster}}},
	}}
	b := object{
		"cluster_manager": clusters,
		"node":            node,
		"dynamic_resources": object{
			"ads_config": object{
				"api_type":              "DELTA_GRPC",
				"transport_api_version": "V3",
				"grpc_services":         []any{object{"envoy_grpc": object{"cluster_name": xdsCluster}}},
				// A node's identity is sent once a stream.
				"set_node_on_first_message_only": true,
			},
			"cds_config": ads,
			"lds_config": ads,
		},
		"static_resources": object{"clusters": []any{bootstrapCluster(xdsAddress, o.xdsAddr)}},
		"layered_runtime": object{"layers": []any{
			// Envoy takes regular expressions of a hundred instructions, which is less than two UUIDs. How long one takes
			// does not grow with them.
			object{"name": "weir", "static_layer": object{"re2.max_program_size.error_level": maxRegex}},
			object{"name": "admin", "admin_layer": object{}}, // as without this
		}},
		"overload_manager": object{
			"resource_monitors": []any{object{
				"name": "envoy.resource_monitors.global_downstream_max_connections",
				"typed_config": object{
					"@type":                             "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
					"max_active_downstream_connections": 50000,
				},
			}},
		},
	}
	if len(o.peers) > 0 {
		peers, err := peersCluster(o.peers)
		if err != nil {
			return nil, err
		}
		clusters["local_cluster_name"] = peersName
		b["static_resources"] = object{"clusters": []any{bootstrapCluster(xdsAddress, o.xdsAddr), peers}}
	}
	if o.admin != "" {
		admin, err := socketAddress(o.admin)
		if err != nil {
			return nil, fmt.Errorf("--admin %w", err)
		}
		b["admin"] = object{"address": admin}
	}
	return yaml.Marshal(b)
}

// bootstrapGRPC writes what a gRPC library reads from the file that GRPC_XDS_BOOTSTRAP names.
func bootstrapGRPC(proxy mesh.Proxy, o bootstrapOptions) ([]byte, error) {
	if _, err := socketAddress(o.xdsAddr); err != nil {
		return nil, fmt.Errorf("--xds %w", err)
	}
	if o.admin != "" {
		return nil, errors.New("--admin is Envoy's: a gRPC library has none")
	}
	if len(o.peers) > 0 {
		return nil, errors.New("--peers is of Envoys: a gRPC library has no limits")
	}
	node, err := bootstrapNode(proxy, o)
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(object{
		"xds_servers": []any{object{
			"server_uri": o.xdsAddr, "channel_creds": []any{object{"type": "insecure"}}, "server_features": []string{"xds_v3"},
		}},
		"node": node,
	}, "", "  ")
	return append(text, '\n'), err
}

const (
	xdsCluster = "weir/xds"
	maxRegex   = 10_000 // instructions
)

func bootstrapNode(proxy mesh.Proxy, o bootstrapOptions) (object, error) {
	id := o.nodeID
	if id == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, failed(fmt.Errorf("host name for the node id (or give --node-id): %w", err))
		}
		id = serve.NodeID(proxy, host)
	}
	node := object{
		"id":       id,
		"cluster":  proxy.Ref.String(),
		"metadata": object{"weir": object{"role": string(proxy.Role), "name": proxy.Ref.String(), "cluster": o.cluster}},
	}
	if says, err := serve.ParseNode(&corev3.Node{Id: id}); err == nil && says != proxy {
		return nil, fmt.Errorf("--node-id %s says %s, and the command line %s: weir serve would turn it away", id, says, proxy)
	}
	if o.zone != "" {
		node["locality"] = object{"zone": o.zone}
	}
	return node, nil
}

// discovery is how Envoy finds what is at an address.
func discovery(hostport string) (field string, value any) {
	host, _, _ := net.SplitHostPort(hostport)
	if _, err := netip.ParseAddr(host); err == nil {
		return "type", "STATIC"
	}
	// As translation does: an IPv4 address of a name that has both.
	return "cluster_type", object{
		"name": "envoy.clusters.dns",
		"typed_config": object{
			"@type":             "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster",
			"dns_lookup_family": "V4_PREFERRED",
		},
	}
}

const peersName = "weir/peers"

// peersCluster is of whom Envoy counts how many share a limit; nothing is sent there.
func peersCluster(peers []string) (object, error) {
	var endpoints []any
	for _, p := range peers {
		address, err := socketAddress(p)
		if err != nil {
			return nil, fmt.Errorf("--peers %w", err)
		}
		if field, _ := discovery(p); field != "type" && len(peers) > 1 {
			return nil, fmt.Errorf("--peers %s: want one name that resolves to all proxies, or the addresses of all", p)
		}
		endpoints = append(endpoints, object{"endpoint": object{"address": address}})
	}
	field, value := discovery(peers[0])
	return object{
		"name": peersName, field: value, "connect_timeout": "1s",
		"load_assignment": object{"cluster_name": peersName, "endpoints": []any{object{"lb_endpoints": endpoints}}},
	}, nil
}

func bootstrapCluster(address object, hostport string) object {
	field, discovery := discovery(hostport)
	return object{
		"name":            xdsCluster,
		field:             discovery,
		"connect_timeout": "1s",
		"load_assignment": object{
			"cluster_name": xdsCluster,
			"endpoints":    []any{object{"lb_endpoints": []any{object{"endpoint": object{"address": address}}}}},
		},
		"typed_extension_protocol_options": object{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
				"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
				"explicit_http_config": object{"http2_protocol_options": object{
					// A control plane that vanished without a word is noticed, and another one found.
					"connection_keepalive": object{"interval": "30s", "timeout": "5s"},
				}},
			},
		},
	}
}

var errHostPort = errors.New("want HOST:PORT")

func socketAddress(hostport string) (object, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil || host == "" {
		return nil, fmt.Errorf("%q: %w", hostport, errHostPort)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return nil, fmt.Errorf("%q: %w", hostport, errHostPort)
	}
	return object{"socket_address": object{"address": host, "port_value": n}}, nil
}
