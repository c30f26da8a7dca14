package adaptivesampling

import (
	"encoding/binary"
	"hash/maphash"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/collector/pdata/pcommon"
)

const (
	dictionarySize = 1 << 16 // bytes
	dictionaryFill = dictionarySize / 4 * 3
	dictionarySees = 1 << 12 // places in its index
	vain           = 32      // values of a key in a row that were not there, after which but one of so many is looked for
)

// dictionary has what repeats in spans, so that spans are held without it. What it has never changes: strings are parts of
// it, and are valid for as long as somebody has them. One that is nearly full is left to them, and a new one begun.
type dictionary struct {
	number uint64
	text   strings.Builder // Invariant: never longer than the capacity that it began with
	told   int             // bytes of text that grown has told of
	index  [dictionarySees]sight

	// Where what came lately is, each where its sample says, so that it is found without being written down first.
	keys       [128]key
	attributes [1024]uint16
}

// sight is of an entry that was seen. What is seen a second time is put in.
type sight struct{ tag, at uint16 } // at is 0 before that

// key is where the key of attributes, or the name of spans, is, and how many of its values in a row were not there.
type key struct {
	at   uint16
	vain uint8
}

// pays says whether it is worth while to look for a value.
func (k *key) pays() bool {
	if k.vain < vain {
		return true
	}
	if k.vain++; k.vain < 2*vain {
		return false
	}
	k.vain = vain
	return true
}

func (k *key) looked(found bool) {
	if found {
		k.vain = 0
	} else if k.vain < vain {
		k.vain++
	}
}

var dictionaries atomic.Uint64 // numbers of dictionaries, and of heads that are in none

// renew makes a dictionary have room.
func (d *dictionary) renew() {
	if d.text.Cap() > 0 && d.text.Len() < dictionaryFill {
		return
	}
	*d = dictionary{number: dictionaries.Add(1)}
	d.text.Grow(dictionarySize)
	d.text.WriteByte(0) // so that nothing is at 0
}

// grown is by how much it has grown since it was asked last.
func (d *dictionary) grown() (bytes int) {
	bytes = d.text.Len() - d.told
	d.told += bytes
	return bytes
}

// find gives where an entry is, or 0. Entries say themselves where they end, so that one which begins as another is that.
func (d *dictionary) find(entry []byte) int {
	h := maphash.Bytes(seed, entry)
	s := &d.index[h%dictionarySees]
	tag := uint16(h >> 48)
	switch {
	case s.tag != tag:
		if s.at == 0 {
			s.tag = tag
		}
		return 0
	case s.at == 0:
		if d.text.Len()+len(entry) > dictionarySize {
			return 0
		}
		s.at = uint16(d.text.Len())
		d.text.Write(entry)
	default:
		if there := d.text.String()[s.at:]; len(there) < len(entry) || there[:len(entry)] != string(entry) {
			return 0
		}
	}
	return int(s.at)
}

// has says whether what is at a place is that attribute.
func (d *dictionary) has(at uint16, name string, v pcommon.Value) bool {
	if at == 0 {
		return false
	}
	u := unpacker{data: d.text.String(), at: int(at) + 1} // after the 0 of a text that is there itself
	return u.string() == name && u.is(v)
}

func (d *dictionary) hasKey(at uint16, name string) bool {
	u := unpacker{data: d.text.String(), at: int(at)}
	return at != 0 && u.string() == name
}

// sample is of so few bytes that it costs next to nothing, and yet mostly another for another text.
func sample(s string) uint64 {
	n := len(s)
	if n == 0 {
		return 0
	}
	return uint64(n)&0xff | uint64(s[n-1])<<8 | uint64(s[n/2])<<16 | uint64(s[n/4*3])<<24
}

func sampleOf(v pcommon.Value) uint64 {
	switch v.Type() {
	case pcommon.ValueTypeStr:
		return sample(v.Str())
	case pcommon.ValueTypeInt:
		return uint64(v.Int())
	}
	return 0
}

func (d *dictionary) keyOf(name string) *key {
	return &d.keys[sample(name)*mix>>(64-7)]
}

func (d *dictionary) attributeOf(name string, v pcommon.Value) *uint16 {
	return &d.attributes[(sample(name)*mix^sampleOf(v))*mix>>(64-10)]
}

const mix = 0x9e3779b97f4a7c15

// head puts in what a batch's spans share. It gives what says which it is, too.
func (d *dictionary) head(message []byte) (string, uint64) {
	entry := binary.AppendUvarint(nil, uint64(len(message)))
	at := d.find(append(entry, message...))
	if at == 0 {
		return string(message), dictionaries.Add(1) << 16
	}
	there := unpacker{data: d.text.String(), at: at}
	return there.string(), d.number<<16 | uint64(at)
}
