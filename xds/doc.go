// Package xds translates the mesh into Envoy's resources. Translation is pure and deterministic: equal models give
// equal bytes and versions, on every replica. Each resource is built, hashed and marshalled once and shared by all
// proxies that may have it. The package sends nothing: package serve does.
package xds
