package serve

import (
	"errors"
	"strings"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverysvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statusv1 "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// request is what a proxy says, in the delta protocol's terms; the other protocol is turned into it. Its bytes are the
// message's.
type request struct {
	node        *corev3.Node
	url         []byte // of the type
	kind        kind   // the type,
	served      bool   // if it is one that is served
	subscribe   []string
	unsubscribe []string
	initial     map[string]string // what it has from an earlier stream, name to version
	version     []byte            // state-of-the-world: of all that it has from an earlier stream
	nonce       []byte            // of the response that this answers; empty answers none
	refusal     string            // why it refused that; "" accepts it
}

// requestFields are those of a protocol's requests that are decoded by hand; 0: it has no such field.
type requestFields struct {
	url, nonce, subscribe, unsubscribe, initial, version protowire.Number
	all                                                  protowire.Number // of the names, each time; left to takeNames

	blank func() restOfRequest // for all others
}

type restOfRequest interface {
	proto.Message
	GetNode() *corev3.Node
	GetErrorDetail() *statusv1.Status
}

var (
	deltaFields = requestFields{
		url:         field(&discoverysvcv3.DeltaDiscoveryRequest{}, "type_url"),
		nonce:       field(&discoverysvcv3.DeltaDiscoveryRequest{}, "response_nonce"),
		subscribe:   field(&discoverysvcv3.DeltaDiscoveryRequest{}, "resource_names_subscribe"),
		unsubscribe: field(&discoverysvcv3.DeltaDiscoveryRequest{}, "resource_names_unsubscribe"),
		initial:     field(&discoverysvcv3.DeltaDiscoveryRequest{}, "initial_resource_versions"),
		blank:       func() restOfRequest { return new(discoverysvcv3.DeltaDiscoveryRequest) },
	}
	sotwFields = requestFields{
		url:     field(&discoverysvcv3.DiscoveryRequest{}, "type_url"),
		nonce:   field(&discoverysvcv3.DiscoveryRequest{}, "response_nonce"),
		all:     field(&discoverysvcv3.DiscoveryRequest{}, "resource_names"),
		version: field(&discoverysvcv3.DiscoveryRequest{}, "version_info"),
		blank:   func() restOfRequest { return new(discoverysvcv3.DiscoveryRequest) },
	}
)

// parse decodes a request as protobuf's own decoder does. An answer, which is nearly all that proxies ever say, is taken
// where it lies, and of a thousand versions there is one string.
func (r *request) parse(message []byte, of *requestFields) error {
	var rest []byte // what protobuf's decoder is left with
	entries, size := 0, 0
	f := fields{rest: message}
	for f.next() {
		switch {
		case f.value != nil && f.number == of.initial:
			entries, size = entries+1, size+len(f.value)
		case f.value != nil && f.number == of.all:
		case f.value == nil || !r.take(f.number, f.value, of):
			rest = append(rest, f.whole...)
		case !utf8.Valid(f.value):
			return errUTF8
		}
	}
	if f.err != nil {
		return f.err
	}
	r.kind, r.served = kindOf(r.url)
	if len(rest) > 0 {
		m := of.blank()
		if err := proto.Unmarshal(rest, m); err != nil {
			return err
		}
		r.node, r.refusal = m.GetNode(), refusal(m.GetErrorDetail())
	}
	if entries == 0 {
		return nil
	}
	return r.takeInitial(message, of, entries, size)
}

// takeNames takes the names of a state-of-the-world request, each of which has all. Those that were there before, in their
// places, take nothing.
func (r *request) takeNames(message []byte, before []string) error {
	r.subscribe = before[:0:0]
	same := 0 // so many are as before
	f := fields{rest: message}
	for f.next() {
		switch {
		case f.number != sotwFields.all || f.value == nil:
			continue
		case same == len(r.subscribe) && same < len(before) && string(f.value) == before[same]:
			same++
			r.subscribe = before[:same:same]
			continue
		case !utf8.Valid(f.value):
			return errUTF8
		}
		r.subscribe = append(r.subscribe, string(f.value))
	}
	return f.err
}

// take takes a field that is text, if it is one of those.
func (r *request) take(number protowire.Number, value []byte, of *requestFields) bool {
	switch number {
	case of.url:
		r.url = value
	case of.nonce:
		r.nonce = value
	case of.version:
		r.version = value
	case of.subscribe:
		r.subscribe = append(r.subscribe, string(value))
	case of.unsubscribe:
		r.unsubscribe = append(r.unsubscribe, string(value))
	default:
		return false
	}
	return true
}

// takeInitial takes what a proxy says that it has: so many entries of so many bytes. Names and versions are parts of one
// string, and their map is made once, large enough. After a restart it is most of the work.
func (r *request) takeInitial(message []byte, of *requestFields, entries, size int) error {
	var text strings.Builder
	text.Grow(size)
	r.initial = make(map[string]string, entries)
	f := fields{rest: message}
	for f.next() {
		if f.number != of.initial || f.value == nil {
			continue
		}
		name, version, err := entry(f.value, &text)
		if err != nil {
			return err
		}
		r.initial[name] = version
	}
	return f.err
}

// entry takes an entry of a map.
func entry(b []byte, text *strings.Builder) (key, value string, err error) {
	f := fields{rest: b}
	for f.next() {
		if f.value == nil || f.number > 2 {
			continue
		}
		if !utf8.Valid(f.value) {
			return "", "", errUTF8
		}
		from := text.Len()
		text.Write(f.value)
		if part := text.String()[from:]; f.number == 1 {
			key = part
		} else {
			value = part
		}
	}
	return key, value, f.err
}

func refusal(s *statusv1.Status) string {
	if s != nil && s.GetMessage() == "" {
		return "no reason given"
	}
	return s.GetMessage()
}

var errUTF8 = errors.New("want UTF-8")

// fields goes through a message, a field at a time.
type fields struct {
	rest []byte // not gone through yet
	err  error  // the message is none

	number protowire.Number
	value  []byte // where it is bytes, else nil
	whole  []byte // with its tag
}

// next goes to the next field. False says that there is none, or an error.
func (f *fields) next() bool {
	if len(f.rest) == 0 {
		return false
	}
	number, kind, tag := protowire.ConsumeTag(f.rest)
	if tag < 0 {
		f.err = protowire.ParseError(tag)
		return false
	}
	n := protowire.ConsumeFieldValue(number, kind, f.rest[tag:])
	if n < 0 {
		f.err = protowire.ParseError(n)
		return false
	}
	f.number, f.value, f.whole, f.rest = number, nil, f.rest[:tag+n], f.rest[tag+n:]
	if kind == protowire.BytesType {
		_, length := protowire.ConsumeVarint(f.whole[tag:])
		f.value = f.whole[tag+length:] // not nil, even if it is empty
	}
	return true
}
