package otlp

import (
	"encoding/binary"
	"math"
)

// lengthSize is for how many bytes of length there is room: numbers may be written longer than they need be.
const lengthSize = 5

// Begin appends the head of a field that is a message. What is appended after it, until End, is in the message.
func Begin(out []byte, number int) (begun []byte, at int) {
	out = binary.AppendUvarint(out, uint64(number)<<3|wireBytes)
	return append(out, 0, 0, 0, 0, 0), len(out) + lengthSize
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

// AppendText appends an attribute that is a text.
func AppendText(out []byte, number int, key, v string) []byte {
	return appendAttribute(out, number, key, AppendBytes(nil, valueText, v))
}

// AppendBool appends an attribute that is true or false.
func AppendBool(out []byte, number int, key string, v bool) []byte {
	value := []byte{valueBool<<3 | wireVarint, 0}
	if v {
		value[1] = 1
	}
	return appendAttribute(out, number, key, value)
}

// AppendDouble appends an attribute that is a number.
func AppendDouble(out []byte, number int, key string, v float64) []byte {
	return appendAttribute(out, number, key, binary.LittleEndian.AppendUint64([]byte{valueDouble<<3 | wireFixed64}, math.Float64bits(v)))
}

func appendAttribute(out []byte, number int, key string, v Value) []byte {
	out, at := Begin(out, number)
	out = AppendBytes(AppendBytes(out, keyField, key), valueField, v)
	End(out, at)
	return out
}
