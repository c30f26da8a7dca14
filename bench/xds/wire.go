package main

import (
	"fmt"

	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// seen is what a client keeps of a response: resources are counted and not decoded, so that clients are not what is
// measured.
type seen struct {
	kind, nonce string
	resources   int
	bytes       int
	versions    map[string]string // name to version, where asked for
	keep        bool
}

// codec sends requests that are encoded already, and takes responses as seen.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("a %T is not encoded", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	s := v.(*seen)
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	b := buffer.ReadOnlyData()
	*s = seen{bytes: len(b), keep: s.keep}
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 || kind != protowire.BytesType {
			return fmt.Errorf("response: field %d", field)
		}
		value, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return protowire.ParseError(m)
		}
		b = b[n+m:]
		switch field { // of DeltaDiscoveryResponse
		case 2:
			s.resources++
			if s.keep {
				s.note(value)
			}
		case 4:
			s.kind = string(value)
		case 5:
			s.nonce = string(value)
		}
	}
	return nil
}

func (s *seen) note(b []byte) {
	var name, version string
	for len(b) > 0 {
		field, _, n := protowire.ConsumeTag(b)
		value, m := protowire.ConsumeBytes(b[n:])
		if n < 0 || m < 0 {
			return
		}
		b = b[n+m:]
		switch field { // of Resource
		case 1:
			version = string(value)
		case 3:
			name = string(value)
		}
	}
	if s.versions == nil {
		s.versions = make(map[string]string)
	}
	s.versions[name] = version
}

func encode(r *discoverysvcv3.DeltaDiscoveryRequest) []byte {
	b, err := proto.Marshal(r)
	if err != nil {
		panic(err) // what is made here can be marshalled
	}
	return b
}
