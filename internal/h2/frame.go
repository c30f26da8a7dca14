package h2

import (
	"encoding/binary"
	"fmt"
)

// Frames: RFC 9113, section 6.
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	framePriority     = 0x2
	frameReset        = 0x3
	frameSettings     = 0x4
	framePushPromise  = 0x5
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindowUpdate = 0x8
	frameContinuation = 0x9

	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20

	headSize      = 9
	maxFrame      = 16384 // the least that may be set, and what both sides begin with
	defaultWindow = 65535
	maxWindow     = 1<<31 - 1

	settingTableSize     = 0x1
	settingPush          = 0x2
	settingMaxStreams    = 0x3
	settingInitialWindow = 0x4
	settingMaxFrame      = 0x5
	settingMaxHeaders    = 0x6
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// errorCode is why a stream or a connection ends: section 7. It is a connection's error.
type errorCode uint32

const (
	noError          errorCode = 0x0
	protocolError    errorCode = 0x1
	internalError    errorCode = 0x2
	flowControlError errorCode = 0x3
	streamClosed     errorCode = 0x5
	frameSizeError   errorCode = 0x6
	refusedStream    errorCode = 0x7
	compressionError errorCode = 0x9
	enhanceYourCalm  errorCode = 0xb
)

func (e errorCode) Error() string { return fmt.Sprintf("HTTP/2 error 0x%x", uint32(e)) }

type frame struct {
	kind, flags byte
	stream      uint32
	payload     []byte // in the connection's buffer
}

func appendHead(b []byte, length int, kind, flags byte, stream uint32) []byte {
	return append(b, byte(length>>16), byte(length>>8), byte(length), kind, flags,
		byte(stream>>24), byte(stream>>16), byte(stream>>8), byte(stream))
}

func appendReset(b []byte, stream uint32, code errorCode) []byte {
	return binary.BigEndian.AppendUint32(appendHead(b, 4, frameReset, 0, stream), uint32(code))
}

func appendWindowUpdate(b []byte, stream uint32, n int) []byte {
	return binary.BigEndian.AppendUint32(appendHead(b, 4, frameWindowUpdate, 0, stream), uint32(n))
}

func appendSetting(b []byte, id uint16, value uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, id), value)
}

func appendGoAway(b []byte, last uint32, code errorCode) []byte {
	b = appendHead(b, 8, frameGoAway, 0, 0)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, last), uint32(code))
}

// unpad takes the padding off a payload.
func (f *frame) unpad() bool {
	if f.flags&flagPadded == 0 {
		return true
	}
	if len(f.payload) == 0 || int(f.payload[0]) >= len(f.payload) {
		return false
	}
	f.payload = f.payload[1 : len(f.payload)-int(f.payload[0])]
	return true
}
