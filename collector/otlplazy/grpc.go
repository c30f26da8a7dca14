package otlplazy

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

// register has the server take the signal. The server must use [bytesCodec].
func (s service) register(server *grpc.Server) {
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: s.name,
		HandlerType: (*signal)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Export", Handler: s.export}},
	}, s)
}

// export answers one request. A good answer is the empty message, which is an export response that says nothing.
func (s service) export(_ any, ctx context.Context, receive func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // the order of arguments is gRPC's
	var m message
	if err := receive(&m); err != nil {
		return nil, err
	}
	defer m.data.Free()
	take := func(ctx context.Context, _ any) (any, error) {
		if err := s.take(ctx, m.data.ReadOnlyData(), protobuf); err != nil {
			return nil, statusOf(err).Err()
		}
		return &message{}, nil
	}
	if intercept == nil {
		return take(ctx, &m)
	}
	return intercept(ctx, &m, &grpc.UnaryServerInfo{Server: s, FullMethod: "/" + s.name + "/Export"}, take)
}

// message is a request as it came, or an answer without fields.
type message struct{ data mem.Buffer }

// bytesCodec has gRPC's server receive a [message] in one piece, and answer with one.
type bytesCodec struct{}

// Name implements [encoding.CodecV2].
func (bytesCodec) Name() string { return "proto" }

// Marshal implements [encoding.CodecV2].
func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	if _, is := v.(*message); !is {
		return nil, fmt.Errorf("cannot answer with a %T", v)
	}
	return nil, nil
}

// Unmarshal implements [encoding.CodecV2].
func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, is := v.(*message)
	if !is {
		return fmt.Errorf("cannot receive a %T", v)
	}
	m.data = data.MaterializeToBuffer(&buffers)
	return nil
}
