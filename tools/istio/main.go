// Command istio is Istio's control plane with services of its own making, for bench/xds: its pilot-discovery as it is
// without Kubernetes, of which the store of configuration is in memory and obeys lines on standard input, as the
// benchmark's other control planes do. As published, pilot-discovery ends in a nil pointer where it has no Kubernetes (the
// services want to know the cluster's namespaces): it is given Istio's own Kubernetes in memory, in which there is
// nothing.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"
	"istio.io/istio/pilot/pkg/bootstrap"
	"istio.io/istio/pilot/pkg/config/memory"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/schema/collections"
	"istio.io/istio/pkg/config/schema/gvk"
	"istio.io/istio/pkg/kube"
	"istio.io/istio/pkg/log"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves so many services, and obeys:
//
//	route FIRST N SECONDS       the routes of N services have another timeout
//	endpoint I PORT             a service's first endpoint has another port
//	apply                       what was said since is put in force
//	collect                     what is not used is given back to the system
//	profile PATH                PATH.cpu is what was done since the last profile, PATH.heap what is held; "-" only begins
//
// It answers each line when it is done, after a first one with its address.
func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: istio SERVICES FOLDER")
	}
	services, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	store := memory.NewController(memory.MakeSkipValidation(collections.Pilot))
	for i := range services {
		for _, c := range []config.Config{service(i, 8080), route(i, 5)} {
			if _, err := store.Create(c); err != nil {
				return err
			}
		}
	}
	address, err := start(store, args[1])
	if err != nil {
		return err
	}
	fmt.Println(address)
	var staged []config.Config
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		words := strings.Fields(in.Text())
		n := numbers(words[1:])
		switch words[0] {
		case "route":
			for i := n[0]; i < n[0]+n[1]; i++ {
				staged = append(staged, route(i, n[2]))
			}
		case "endpoint":
			staged = append(staged, service(n[0], n[1]))
		case "apply":
			for _, c := range staged {
				if _, err := store.Update(c); err != nil {
					return err
				}
			}
			staged = nil
		case "collect":
			debug.FreeOSMemory()
		case "profile":
			if err := profile(words[1]); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s: no such command", words[0])
		}
		fmt.Println("done")
	}
	return nil
}

var cpu bytes.Buffer

func profile(path string) error {
	pprof.StopCPUProfile()
	if path != "-" {
		runtime.GC()
		var heap bytes.Buffer
		if err := pprof.Lookup("heap").WriteTo(&heap, 0); err != nil {
			return err
		}
		if err := errors.Join(os.WriteFile(path+".cpu", cpu.Bytes(), 0o600), os.WriteFile(path+".heap", heap.Bytes(), 0o600)); err != nil {
			return err
		}
	}
	cpu.Reset()
	return pprof.StartCPUProfile(&cpu)
}

func numbers(words []string) (all []int) {
	for _, w := range words {
		n, _ := strconv.Atoi(w) // only bench/xds speaks here
		all = append(all, n)
	}
	return all
}

// start serves what a store has, and gives the address.
func start(store *memory.Controller, folder string) (string, error) {
	o := log.DefaultOptions()
	o.SetDefaultOutputLevel(log.OverrideScopeName, log.ErrorLevel)
	if err := log.Configure(o); err != nil {
		return "", err
	}
	// The mesh's own configuration is the default, and no other is in files.
	mesh, empty := filepath.Join(folder, "mesh.yaml"), filepath.Join(folder, "empty")
	if err := errors.Join(os.WriteFile(mesh, []byte("{}\n"), 0o600), os.Mkdir(empty, 0o700)); err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	address := l.Addr().String()
	_ = l.Close()
	args := bootstrap.NewPilotArgs(func(p *bootstrap.PilotArgs) {
		p.MeshConfigFile, p.NetworksConfigFile = mesh, mesh
		p.RegistryOptions.FileDir = empty // so that Kubernetes is not asked
		p.RegistryOptions.KubeOptions.DomainSuffix = "cluster.local"
		p.RegistryOptions.KubeOptions.ClusterID = "Kubernetes"
		p.ServerOptions = bootstrap.DiscoveryServerOptions{
			GRPCAddr: address, HTTPAddr: "127.0.0.1:0", TLSOptions: bootstrap.TLSOptions{TLSMinVersion: bootstrap.TLSMinVersion1_2},
		}
	})
	if err := args.Complete(); err != nil {
		return "", err
	}
	s, err := bootstrap.NewServer(args, withoutKubernetes, func(s *bootstrap.Server) { s.ConfigStores = append(s.ConfigStores, store) })
	if err != nil {
		return "", err
	}
	return address, s.Start(make(chan struct{})) // which waits until it is ready, and never ends
}

// withoutKubernetes sets what has no option.
func withoutKubernetes(s *bootstrap.Server) {
	field := reflect.ValueOf(s).Elem().FieldByName("kubeClient")
	reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem().Set(reflect.ValueOf(kube.NewFakeClient()))
}

// service and route say what bench/xds says in Weir's documents.
func service(i, port int) config.Config {
	endpoint := func(last int, zone string, port int) *networking.WorkloadEntry {
		return &networking.WorkloadEntry{
			Address: fmt.Sprintf("10.%d.%d.%d", i/250, i%250, last), Ports: map[string]uint32{"http": uint32(port)}, Locality: "region/" + zone,
		}
	}
	return object(i, config.Config{Meta: config.Meta{GroupVersionKind: gvk.ServiceEntry}, Spec: &networking.ServiceEntry{
		Hosts: []string{host(i)}, Location: networking.ServiceEntry_MESH_INTERNAL, Resolution: networking.ServiceEntry_STATIC,
		Ports:     []*networking.ServicePort{{Number: 80, Name: "http", Protocol: "HTTP"}},
		Endpoints: []*networking.WorkloadEntry{endpoint(1, "a", port), endpoint(2, "b", 8080)},
	}})
}

func route(i, seconds int) config.Config {
	to := []*networking.HTTPRouteDestination{{Destination: &networking.Destination{Host: host(i)}}}
	prefix := &networking.StringMatch{MatchType: &networking.StringMatch_Prefix{Prefix: "/cart"}}
	return object(i, config.Config{Meta: config.Meta{GroupVersionKind: gvk.VirtualService}, Spec: &networking.VirtualService{
		Hosts: []string{host(i)},
		Http: []*networking.HTTPRoute{
			{Name: "cart", Match: []*networking.HTTPMatchRequest{{Uri: prefix}}, Route: to, Timeout: durationpb.New(time.Duration(seconds) * time.Second)},
			{Name: "all", Route: to, Timeout: durationpb.New(9 * time.Second)},
		},
	}})
}

func host(i int) string { return fmt.Sprintf("s%d.shop", i) }

func object(i int, c config.Config) config.Config {
	c.Name, c.Namespace, c.Domain = fmt.Sprintf("s%d", i), "shop", "cluster.local"
	return c
}
