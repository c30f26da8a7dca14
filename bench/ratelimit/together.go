package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"time"

	ratelimitsvcv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
)

// together is a client that writes as many questions at once as are to be in flight, and the next when all are answered: what
// is measured of a server then is not how often the client wakes it up.
type together struct {
	conn   net.Conn
	out    bytes.Buffer // frames, until they are written as one
	frames *http2.Framer
	block  bytes.Buffer
	pack   *hpack.Encoder
	unpack *hpack.Decoder
	stream uint32

	lenient bool // an error is an answer too, and nil
}

// wide is a window that is never used up between two updates.
const wide = 1 << 30

func dialTogether(address string) (*together, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	c := &together{conn: conn, stream: 1}
	c.frames = http2.NewFramer(&c.out, bufio.NewReaderSize(conn, 256<<10))
	c.frames.SetReuseFrames()
	c.pack = hpack.NewEncoder(&c.block)
	c.unpack = hpack.NewDecoder(4096, nil)
	c.out.WriteString(http2.ClientPreface)
	// A buffer takes everything.
	_ = c.frames.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: wide})
	_ = c.frames.WriteWindowUpdate(0, wide)
	return c, c.write()
}

func (c *together) write() error {
	_, err := c.conn.Write(c.out.Bytes())
	c.out.Reset()
	return err
}

// ask asks all at once, and gives what is answered, in the order of the answers.
func (c *together) ask(questions []*ratelimitsvcv3.RateLimitRequest) ([]*ratelimitsvcv3.RateLimitResponse, error) {
	for _, q := range questions {
		message, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 5), q)
		if err != nil {
			return nil, err
		}
		binary.BigEndian.PutUint32(message[1:], uint32(len(message)-5))
		c.block.Reset()
		for _, f := range [][2]string{
			{":method", "POST"},
			{":scheme", "http"},
			{":path", ratelimitsvcv3.RateLimitService_ShouldRateLimit_FullMethodName},
			{":authority", "ratelimit"},
			{"content-type", "application/grpc"},
			{"te", "trailers"},
			{"grpc-timeout", "1000000u"},
		} {
			_ = c.pack.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		_ = c.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: c.stream, BlockFragment: c.block.Bytes(), EndHeaders: true})
		_ = c.frames.WriteData(c.stream, true, message)
		c.stream += 2
	}
	if err := c.write(); err != nil {
		return nil, err
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	answers := make([]*ratelimitsvcv3.RateLimitResponse, 0, len(questions))
	messages := make(map[uint32][]byte, len(questions))
	received := 0
	for len(answers) < len(questions) {
		f, err := c.frames.ReadFrame()
		if err != nil {
			return nil, err
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			messages[f.StreamID] = append(messages[f.StreamID], f.Data()...)
			received += len(f.Data())
		case *http2.HeadersFrame:
			fields, err := c.unpack.DecodeFull(f.HeaderBlockFragment())
			if err != nil || !f.HeadersEnded() {
				return nil, fmt.Errorf("headers that can't be read: %w", err)
			}
			if !f.StreamEnded() {
				continue
			}
			answer, err := answerOf(messages[f.StreamID], fields)
			if err != nil && !c.lenient {
				return nil, err
			}
			answers = append(answers, answer)
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = c.frames.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = c.frames.WritePing(true, f.Data)
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return nil, fmt.Errorf("the server gives up: %v", f)
		}
	}
	if received > 0 {
		_ = c.frames.WriteWindowUpdate(0, uint32(received))
	}
	return answers, nil
}

func answerOf(message []byte, trailers []hpack.HeaderField) (*ratelimitsvcv3.RateLimitResponse, error) {
	status := ""
	for _, f := range trailers {
		if f.Name == "grpc-status" {
			status = f.Value
		}
	}
	if status != "0" || len(message) < 5 {
		return nil, fmt.Errorf("grpc-status %q, %d bytes", status, len(message))
	}
	var answer ratelimitsvcv3.RateLimitResponse
	return &answer, proto.Unmarshal(message[5:], &answer)
}

// askTogether is [ask] by such a client. Latencies are of all in flight.
func askTogether(s *server, concurrency int, batched bool, during time.Duration) (*result, error) {
	c, err := dialTogether(s.address)
	if err != nil {
		return nil, err
	}
	defer c.conn.Close()
	all := questions(batched)
	each, next := len(all[0].GetDescriptors()), 0
	now := make([]*ratelimitsvcv3.RateLimitRequest, concurrency)
	phase := func(during time.Duration) (latency []time.Duration, err error) {
		for end := time.Now().Add(during); time.Now().Before(end); {
			for i := range now {
				now[i] = all[(next+i)%len(all)]
			}
			next += len(now)
			start := time.Now()
			answers, err := c.ask(now)
			if err != nil {
				return nil, err
			}
			for _, a := range answers {
				if len(a.GetStatuses()) != each {
					return nil, fmt.Errorf("%d statuses for %d descriptors", len(a.GetStatuses()), each)
				}
				latency = append(latency, time.Since(start))
			}
		}
		return latency, nil
	}
	return measure(s, each, phase, during)
}
