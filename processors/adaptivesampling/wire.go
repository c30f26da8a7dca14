package adaptivesampling

import "encoding/binary"

// fields reads the fields of a protobuf message one after another. What is cut short or malformed ends it.
type fields struct {
	message []byte
	at      int // of the next field
	start   int // of the field that was read, its tag included

	number int
	value  []byte // of a field with a length
	bits   uint64 // of any other
	bad    bool
}

func read(message []byte) fields { return fields{message: message} }

// next reads a field, if there is one.
func (f *fields) next() bool {
	if f.at >= len(f.message) {
		return false
	}
	f.start = f.at
	tag := f.varint()
	f.number = int(tag >> 3)
	switch tag & 7 {
	case 0:
		f.bits = f.varint()
	case 1:
		if b := f.take(8); b != nil {
			f.bits = binary.LittleEndian.Uint64(b)
		}
	case 2:
		f.value = f.take(f.varint())
	case 5:
		if b := f.take(4); b != nil {
			f.bits = uint64(binary.LittleEndian.Uint32(b))
		}
	default:
		f.bad = true
	}
	return !f.bad
}

func (f *fields) varint() uint64 {
	if f.at < len(f.message) && f.message[f.at] < 0x80 { // the usual case
		f.at++
		return uint64(f.message[f.at-1])
	}
	v, n := binary.Uvarint(f.message[min(f.at, len(f.message)):])
	if n <= 0 {
		f.bad = true
		return 0
	}
	f.at += n
	return v
}

func (f *fields) take(n uint64) []byte {
	if f.bad || n > uint64(len(f.message)-f.at) {
		f.bad = true
		return nil
	}
	f.at += int(n)
	return f.message[f.at-int(n) : f.at : f.at]
}

// raw is the field that was read, with its tag.
func (f *fields) raw() []byte { return f.message[f.start:f.at:f.at] }

// appendHead appends the tag and length of a field of so many bytes.
func appendHead(dst []byte, number, length int) []byte {
	return binary.AppendUvarint(append(dst, byte(number<<3|2)), uint64(length))
}

func headSize(length int) int {
	n := 2
	for ; length >= 0x80; length >>= 7 {
		n++
	}
	return n
}
