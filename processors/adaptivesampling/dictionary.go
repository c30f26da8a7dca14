package adaptivesampling

import (
	"encoding/binary"
	"hash/maphash"
	"strings"
	"sync/atomic"
)

const (
	dictionarySize = 1 << 16 // bytes
	dictionaryFill = dictionarySize / 4 * 3
	dictionarySees = 1 << 12 // places in its index
	longest        = 1 << 12 // bytes of an entry
	vain           = 32      // values of a key in a row that were not there, after which but one of so many is looked for
)

// dictionary has what repeats in spans, so that spans are held without it. What it has never changes: strings are parts of
// it, and are valid for as long as somebody has them. One that is nearly full is left to them, and a new one begun.
type dictionary struct {
	number uint64
	text   strings.Builder // Invariant: never longer than the capacity that it began with
	told   int             // bytes of text that grown has told of
	index  [dictionarySees]sight

	// Where what came lately is, each where its sample says, so that it is found without a look at the index.
	keys   [128]key
	lately [1024]uint16
}

// Entries are two bytes that say how long they are, and so many bytes. They begin at even places. At 0 is one that is empty.

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
	d.text.WriteString("\x00\x00")
}

// grown is by how much it has grown since it was asked last.
func (d *dictionary) grown() (bytes int) {
	bytes = d.text.Len() - d.told
	d.told += bytes
	return bytes
}

// find gives where an entry is, or 0, and notes that it came. Those that are too long are not looked for.
func (d *dictionary) find(entry []byte) uint16 {
	if len(entry) > longest {
		return 0
	}
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
		if s.at = d.put(entry); s.at == 0 {
			return 0
		}
	case !d.has(s.at, entry):
		return 0
	}
	d.lately[sample(entry)>>(64-10)] = s.at
	return s.at
}

// put gives where the new entry is, or 0 if there is no room.
func (d *dictionary) put(entry []byte) uint16 {
	at := d.text.Len()
	if at+2+len(entry)+1 > dictionarySize {
		return 0
	}
	d.text.WriteByte(byte(len(entry)))
	d.text.WriteByte(byte(len(entry) >> 8))
	d.text.Write(entry)
	if len(entry)%2 != 0 {
		d.text.WriteByte(0)
	}
	return uint16(at)
}

// recent gives where an entry is that came lately, or 0.
func (d *dictionary) recent(entry []byte) uint16 {
	if at := d.lately[sample(entry)>>(64-10)]; d.has(at, entry) {
		return at
	}
	return 0
}

// has says whether an entry, which is not empty, is there.
func (d *dictionary) has(at uint16, entry []byte) bool {
	return entryAt(d.text.String(), at) == string(entry)
}

// entryAt gives the entry of a dictionary that is there.
func entryAt(dictionary string, at uint16) string {
	text := dictionary[at:]
	size := int(text[0]) | int(text[1])<<8
	return text[2 : 2+size]
}

// sample is of so few bytes that it costs next to nothing, and yet mostly another for other bytes.
func sample(b []byte) uint64 {
	n := len(b)
	if n < 8 {
		h := uint64(n)
		for _, c := range b {
			h = h<<8 | uint64(c)
		}
		return h * mix
	}
	first, middle, last := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[n/2-4:]), binary.LittleEndian.Uint64(b[n-8:])
	return ((first*mix+last)*mix ^ middle) * mix
}

func (d *dictionary) keyOf(field []byte) *key { return &d.keys[sample(field)>>(64-7)] }

const mix = 0x9e3779b97f4a7c15

// head puts in what a batch's spans share. It gives what says which it is, too.
func (d *dictionary) head(message []byte) (string, uint64) {
	if at := d.find(message); at != 0 {
		return entryAt(d.text.String(), at), d.number<<16 | uint64(at)
	}
	return string(message), dictionaries.Add(1) << 16
}
