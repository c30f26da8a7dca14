package serve

import (
	"errors"
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// NodeID is a node's id: ROLE~[NAMESPACE/]NAME~INSTANCE.
func NodeID(p mesh.Proxy, instance string) string {
	return string(p.Role) + "~" + p.Ref.String() + "~" + instance
}

var errNode = errors.New("want a node id of the form gateway~NAME~INSTANCE, service~NAMESPACE/NAME~INSTANCE or grpc~NAME~INSTANCE, or metadata weir: {role, name}; `weir bootstrap` writes both")

// maxSaid is how many bytes each of what a node says of itself may have: it is kept while the stream is there, and logged.
const maxSaid = 1 << 10

// checkSaid refuses a node that says more than a proxy has to say.
func checkSaid(n *corev3.Node) error {
	weir := n.GetMetadata().GetFields()["weir"].GetStructValue().GetFields()
	for _, said := range [...][2]string{
		{"id", n.GetId()},
		{"metadata weir.role", weir["role"].GetStringValue()},
		{"metadata weir.name", weir["name"].GetStringValue()},
		{"metadata weir.cluster", weir["cluster"].GetStringValue()},
		{"locality zone", n.GetLocality().GetZone()},
		{"user agent", n.GetUserAgentName() + n.GetUserAgentVersion()},
	} {
		if len(said[1]) > maxSaid {
			return fmt.Errorf("the node's %s has %d bytes: want %d at most", said[0], len(said[1]), maxSaid)
		}
	}
	return nil
}

// ParseNode says which proxy a node is, by its metadata weir: {role, name} or else by its id. Both must agree where
// both speak.
func ParseNode(n *corev3.Node) (mesh.Proxy, error) {
	if err := checkSaid(n); err != nil {
		return mesh.Proxy{}, err
	}
	byID, idOK := parseID(n.GetId())
	meta, said := n.GetMetadata().GetFields()["weir"]
	if !said {
		if !idOK {
			return mesh.Proxy{}, fmt.Errorf("node id %q: %w", n.GetId(), errNode)
		}
		return byID, nil
	}
	fields := meta.GetStructValue().GetFields()
	p := mesh.Proxy{Role: mesh.Role(fields["role"].GetStringValue()), Ref: policy.ParseRef(fields["name"].GetStringValue(), "")}
	if !wellFormed(p) {
		return mesh.Proxy{}, fmt.Errorf("node metadata weir: {role: %q, name: %q}: %w", p.Role, p.Ref, errNode)
	}
	if idOK && byID != p {
		return mesh.Proxy{}, fmt.Errorf("node id %q says %s and its metadata %s: they must agree", n.GetId(), byID, p)
	}
	return p, nil
}

func parseID(id string) (mesh.Proxy, bool) {
	role, rest, _ := strings.Cut(id, "~")
	name, _, ok := strings.Cut(rest, "~")
	p := mesh.Proxy{Role: mesh.Role(role), Ref: policy.ParseRef(name, "")}
	return p, ok && wellFormed(p)
}

func wellFormed(p mesh.Proxy) bool {
	return p.Ref.Name != "" && (p.Role == mesh.RoleGateway || p.Role == mesh.RoleService || p.Role == mesh.RoleGRPC)
}
