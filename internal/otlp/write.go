package otlp

import "encoding/binary"

// lengthSize is for how many bytes of length there is room: numbers may be written longer than they need be.
const lengthSize = 4

// MaxMessage is how long a message that is begun and ended can get.
const MaxMessage = 1<<(7*lengthSize) - 1

// Begin appends the head of a field that is a message. What is appended after it, until End, is in the message.
func Begin(out []byte, number int) (begun []byte, at int) {
	out = binary.AppendUvarint(out, uint64(number)<<3|wireBytes)
	return append(out, 0, 0, 0, 0), len(out) + lengthSize
}

// End writes how long the message is that begins there.
func End(out []byte, at int) {
	n := len(out) - at
	for i := range lengthSize {
		out[at-lengthSize+i] = byte(n>>(7*i))&0x7f | 0x80
	}
	out[at-1] &= 0x7f
}

// AppendBytes appends a field that is a text, an id, or a message.
func AppendBytes[T ~string | ~[]byte](out []byte, number int, body T) []byte {
	out = binary.AppendUvarint(out, uint64(number)<<3|wireBytes)
	return append(binary.AppendUvarint(out, uint64(len(body))), body...)
}
