package ratelimit

import (
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that takes all but bytes that are no text
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/machinenativeops/weir/mesh"
)

// GRPCOptions are what a gRPC server of the service must have. Envoy puts header values into its questions as they
// came, while a string in a message must be UTF-8: without them, a client whose header is not would make a question
// that nobody can read, and go round its limits where onError allows.
func GRPCOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ForceServerCodecV2(codec{encoding.GetCodecV2("proto")})}
}

type codec struct{ encoding.CodecV2 }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	err := c.CodecV2.Unmarshal(data, v)
	m, ok := v.(proto.Message)
	if err == nil || !ok {
		return err
	}
	b, bad := legible(m.ProtoReflect().Descriptor(), data.Materialize(), maxNesting)
	if bad != nil {
		return err // it is not for the text
	}
	return proto.Unmarshal(b, m)
}

const maxNesting = 16

var errNested = errors.New("messages within messages, too deep")

// legible gives an encoded message whose strings are text, as mesh.LimitValue has it.
func legible(d protoreflect.MessageDescriptor, b []byte, nesting int) ([]byte, error) {
	if nesting == 0 {
		return nil, errNested
	}
	out := make([]byte, 0, len(b)+16)
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeField(b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		whole := b[:n]
		b = b[n:]
		f := d.Fields().ByNumber(number)
		if kind != protowire.BytesType || f == nil || f.Kind() != protoreflect.StringKind && f.Kind() != protoreflect.MessageKind {
			out = append(out, whole...)
			continue
		}
		_, _, head := protowire.ConsumeTag(whole)
		value, _ := protowire.ConsumeBytes(whole[head:])
		if f.Kind() == protoreflect.StringKind {
			value = []byte(mesh.LimitValue(string(value)))
		} else {
			var err error
			if value, err = legible(f.Message(), value, nesting-1); err != nil {
				return nil, err
			}
		}
		out = protowire.AppendBytes(append(out, whole[:head]...), value)
	}
	return out, nil
}
