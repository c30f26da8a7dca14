package mesh

import "github.com/machinenativeops/weir/policy"

// Role is what a proxy is there for.
type Role string

// The roles.
const (
	RoleGateway Role = "gateway" // an entry point, named by a Gateway document
	RoleService Role = "service" // beside a workload, named by its Service document
	RoleGRPC    Role = "grpc"    // no proxy but a gRPC library that asks for itself, named as its owner likes
)

// Proxy is who a proxy is: all proxies that are equal here get the same configuration, and all gRPC libraries do.
type Proxy struct {
	Role Role
	Ref  policy.Ref
}

// String gives ROLE NAMESPACE/NAME.
func (p Proxy) String() string { return string(p.Role) + " " + p.Ref.String() }
