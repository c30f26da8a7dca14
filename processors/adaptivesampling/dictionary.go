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
)

// dictionary has what repeats in spans, so that spans are held without it. What it has never changes: strings are parts of
// it, and are valid for as long as somebody has them. One that is nearly full is left to them, and a new one begun.
type dictionary struct {
	number uint64
	text   strings.Builder // Invariant: never longer than the capacity that it began with
	told   int             // bytes of text that grown has told of
	index  [dictionarySees]sight
}

// sight is of an entry that was seen. What is seen a second time is put in.
type sight struct{ tag, at uint16 } // at is 0 before that

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
