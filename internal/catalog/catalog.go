// Package catalog writes the documents of as many services as are wanted, for tests and benchmarks of large meshes.
package catalog

import "fmt"

// Service is the i-th service, of which a version has an endpoint at 10.0.0.ENDPOINT, and its Route, in which that version has
// a weight. Lines behind it belong to the Route's last rule.
func Service(i, endpoint, weight int) string {
	return fmt.Sprintf(`kind: Service
metadata: {name: s%05[1]d, namespace: shop}
spec:
  versions: [{name: v1}, {name: v2}]
  endpoints:
    static:
      - {address: 10.0.0.%[2]d, port: 9001, labels: {version: v1}}
      - {address: 10.0.1.1, port: 9002, labels: {version: v2}}
---
kind: Route
metadata: {name: s%05[1]d, namespace: shop}
spec:
  service: s%05[1]d
  rules:
    - name: beta
      match: {headers: [{name: x-user-group, exact: beta}]}
      to: [{version: v2}]
    - name: default
      to: [{version: v1, weight: %[3]d}, {version: v2, weight: 10}]
`, i, endpoint, weight)
}
