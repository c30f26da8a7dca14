// Package collector is what weir-collector is made of beside the processors: the archive exporter, the default
// configuration (config.yaml) and how components follow the documents, in packages of their own.
//
// The package itself holds that configuration, and the tests that run the real collector against a real S3 server.
package collector

import _ "embed" // for config.yaml

// Config is the configuration that weir-collector is meant to run with. Its comments say which environment
// variables it reads.
//
//go:embed config.yaml
var Config []byte
