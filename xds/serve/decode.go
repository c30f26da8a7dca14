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
	for b := message; len(b) > 0; {
		number, value, whole, err := nextField(b)
		if err != nil {
			return err
		}
		b = b[len(whole):]
		switch {
		case value != nil && number == of.initial:
			entries, size = entries+1, size+len(value)
		case value != nil && number == of.all:
		case value == nil || !r.take(number, value, of):
			rest = append(rest, whole...)
		case !utf8.Valid(value):
			return errUTF8
		}
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
	for b := message; len(b) > 0; {
		number, value, whole, err := nextField(b)
		if err != nil {
			return err
		}
		b = b[len(whole):]
		switch {
		case number != sotwFields.all || value == nil:
			continue
		case same == len(r.subscribe) && same < len(before) && string(value) == before[same]:
			same++
			r.subscribe = before[:same:same]
			continue
		case !utf8.Valid(value):
			return errUTF8
		}
		r.subscribe = append(r.subscribe, string(value))
	}
	return nil
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
	for b := message; len(b) > 0; {
		number, value, whole, err := nextField(b)
		if err != nil {
			return err
		}
		if b = b[len(whole):]; number != of.initial || value == nil {
			continue
		}
		name, version, err := entry(value, &text)
		if err != nil {
			return err
		}
		r.initial[name] = version
	}
	return nil
}

// entry takes an entry of a map.
func entry(b []byte, text *strings.Builder) (key, value string, err error) {
	for len(b) > 0 {
		number, v, whole, err := nextField(b)
		if err != nil {
			return "", "", err
		}
		if b = b[len(whole):]; v == nil || number > 2 {
			continue
		}
		if !utf8.Valid(v) {
			return "", "", errUTF8
		}
		from := text.Len()
		text.Write(v)
		if part := text.String()[from:]; number == 1 {
			key = part
		} else {
			value = part
		}
	}
	return key, value, nil
}

func refusal(s *statusv1.Status) string {
	if s != nil && s.GetMessage() == "" {
		return "no reason given"
	}
	return s.GetMessage()
}

var errUTF8 = errors.New("want UTF-8")

// nextField gives the first field of a message: its value where that is bytes, else nil, and with its tag.
func nextField(b []byte) (number protowire.Number, value, whole []byte, err error) {
	number, kind, tag := protowire.ConsumeTag(b)
	if tag < 0 {
		return 0, nil, nil, protowire.ParseError(tag)
	}
	n := protowire.ConsumeFieldValue(number, kind, b[tag:])
	if n < 0 {
		return 0, nil, nil, protowire.ParseError(n)
	}
	whole = b[:tag+n]
	if kind == protowire.BytesType {
		_, length := protowire.ConsumeVarint(whole[tag:])
		value = whole[tag+length:] // not nil, even if it is empty
	}
	return number, value, whole, nil
}
