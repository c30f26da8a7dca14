package adaptivesampling

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/zap"

	"github.com/machinenativeops/weir/internal/otlp"
	"github.com/machinenativeops/weir/sampling"
	"github.com/machinenativeops/weir/sampling/whole"
)

// journal keeps what is held in a storage extension, so that it outlives a crash: each batch before its sender is told
// that it was taken, until all of its spans are dropped or taken by the next component. What was decided of their traces
// is noted too, within a tenth of a second, so that a restart neither decides again nor sends twice what was noted.
//
// Keys: b and a number are batches, d and a number notes, range says which there may be.
type journal struct {
	client storage.Client
	log    *zap.Logger

	commit sync.Mutex // held by who writes

	mu      sync.Mutex // guards what follows
	waiting []*putting
	removed []uint64 // batches
	notes   []byte
	stored  map[uint64]bool
	low     uint64 // no batch before it is stored
	next    uint64 // nor any from here on
	blocks  []block
	block   uint64 // the next block's number
}

// block is notes that were written together.
type block struct {
	number uint64
	before uint64 // it is about batches with lower numbers
}

// putting is a batch that is to be written. Of the writer, who is whoever holds commit.
type putting struct {
	number uint64
	data   []byte
	done   bool
	err    error
}

// doneWith is a trace of which the spans of a batch are done with.
type doneWith struct {
	id    whole.ID
	batch uint64
}

const (
	rangeKey = "range"
	noteSize = 16 + 8 + 1 + 8
)

// openJournal finds the storage extension.
func openJournal(ctx context.Context, host component.Host, id, processor component.ID, log *zap.Logger) (*journal, error) {
	e, ok := host.GetExtensions()[id]
	if !ok {
		return nil, fmt.Errorf("storage: there is no extension %s: add it to service.extensions", id)
	}
	s, ok := e.(storage.Extension)
	if !ok {
		return nil, fmt.Errorf("storage: the extension %s is no storage", id)
	}
	client, err := s.GetClient(ctx, component.KindProcessor, processor, "whole")
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	return &journal{client: client, log: log, stored: map[uint64]bool{}, low: 1, next: 1}, nil
}

// put writes a batch, as OTLP, and returns when it is written. Batches that come at once are written at once.
func (j *journal) put(number uint64, data []byte) error {
	p := &putting{number: number, data: data}
	j.mu.Lock()
	j.waiting = append(j.waiting, p)
	j.stored[number] = true
	j.low, j.next = min(j.low, number), max(j.next, number+1)
	j.mu.Unlock()
	j.commit.Lock()
	defer j.commit.Unlock()
	if !p.done {
		j.write()
	}
	if p.err != nil {
		return fmt.Errorf("storage: %w", p.err)
	}
	return nil
}

// remove is that a batch is done with.
func (j *journal) remove(number uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.removed = append(j.removed, number)
}

// note is what was decided on a trace; and, but for 0, that its spans of a batch are done with.
func (j *journal) note(id whole.ID, v whole.Verdict, batch uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	flags := byte(v.Rule) << 1
	if v.Keep {
		flags |= 1
	}
	j.notes = append(j.notes, id[:]...)
	j.notes = binary.LittleEndian.AppendUint64(j.notes, uint64(v.Threshold))
	j.notes = append(j.notes, flags)
	j.notes = binary.LittleEndian.AppendUint64(j.notes, batch)
}

// flush writes what is removed and noted.
func (j *journal) flush() {
	j.mu.Lock()
	idle := len(j.removed) == 0 && len(j.notes) == 0
	j.mu.Unlock()
	if idle {
		return
	}
	j.commit.Lock()
	defer j.commit.Unlock()
	j.write()
}

// write writes everything that waits, as one transaction. The caller holds commit.
func (j *journal) write() {
	j.mu.Lock()
	puts, removed, notes := j.waiting, j.removed, j.notes
	j.waiting, j.removed, j.notes = nil, nil, nil
	var ops []*storage.Operation
	for _, p := range puts {
		ops = append(ops, storage.SetOperation(batchKey(p.number), p.data))
	}
	for _, n := range removed {
		delete(j.stored, n)
		ops = append(ops, storage.DeleteOperation(batchKey(n)))
	}
	for j.low < j.next && !j.stored[j.low] {
		j.low++
	}
	if len(notes) > 0 {
		j.blocks = append(j.blocks, block{j.block, j.next})
		ops = append(ops, storage.SetOperation(blockKey(j.block), notes))
		j.block++
	}
	for len(j.blocks) > 0 && j.blocks[0].before <= j.low {
		ops = append(ops, storage.DeleteOperation(blockKey(j.blocks[0].number)))
		j.blocks = j.blocks[1:]
	}
	first := j.block
	if len(j.blocks) > 0 {
		first = j.blocks[0].number
	}
	ops = append(ops, storage.SetOperation(rangeKey, encodeRange(j.low, j.next, first, j.block)))
	j.mu.Unlock()

	err := j.client.Batch(context.Background(), ops...)
	for _, p := range puts {
		p.done, p.err = true, err
	}
	if err != nil {
		j.failed(puts, removed, err)
	}
}

// failed takes back batches that were not written. Notes that were not are not written later: without them, a restart
// decides anew.
func (j *journal) failed(puts []*putting, removed []uint64, err error) {
	j.log.Error("held spans are not written to storage", zap.Error(err))
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, p := range puts {
		delete(j.stored, p.number)
	}
	j.removed = append(removed, j.removed...)
}

// replay takes up what a holder before held.
func (j *journal) replay(ctx context.Context, h *holder) error {
	value, err := j.client.Get(ctx, rangeKey)
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	if len(value) != 4*8 {
		return nil // nothing was ever held
	}
	at := func(i int) uint64 { return binary.LittleEndian.Uint64(value[8*i:]) }
	j.low, j.next, j.block = at(0), at(1), at(3)
	h.live.numbers.Store(max(j.next, 1) - 1)
	done, err := j.replayNotes(ctx, h, at(2))
	if err != nil {
		return err
	}
	spans := 0
	for n := j.low; n < at(1); n++ {
		data, err := j.client.Get(ctx, batchKey(n))
		if err != nil {
			return fmt.Errorf("storage: %w", err)
		}
		if data == nil {
			continue
		}
		j.stored[n] = true
		data, count, err := readable(data)
		if err != nil {
			j.log.Error("held spans in storage can't be read", zap.Error(err))
			j.remove(n)
			continue
		}
		spans += count
		now := time.Now().UnixNano()
		h.add(ctx, data, &batch{number: n, arrived: now}, h.sampler.rates.Load(), h.inForce(), now, done)
	}
	if spans > 0 {
		j.log.Info("spans that were held are taken up", zap.Int("spans", spans))
	}
	return nil
}

// readable gives a stored batch as it is read, and how many spans it has. What pdata takes and [otlp.Check] refuses, such as values
// very deep in each other, is stored where it came decoded.
func readable(data []byte) (request []byte, spans int, err error) {
	if spans, err = otlp.Check(data); err == nil {
		return data, spans, nil
	}
	td, err := new(ptrace.ProtoUnmarshaler).UnmarshalTraces(data)
	if err != nil {
		return nil, 0, err
	}
	request, err = new(ptrace.ProtoMarshaler).MarshalTraces(td)
	return request, td.SpanCount(), err
}

func (j *journal) replayNotes(ctx context.Context, h *holder, first uint64) (map[doneWith]bool, error) {
	done := map[doneWith]bool{}
	for n := first; n < j.block; n++ {
		notes, err := j.client.Get(ctx, blockKey(n))
		if err != nil {
			return nil, fmt.Errorf("storage: %w", err)
		}
		j.blocks = append(j.blocks, block{n, j.next})
		for ; len(notes) >= noteSize; notes = notes[noteSize:] {
			v := whole.Verdict{
				Keep: notes[24]&1 != 0, Rule: min(whole.Rule(notes[24]>>1), whole.Rate),
				Threshold: sampling.Threshold(binary.LittleEndian.Uint64(notes[16:])),
			}
			id := whole.ID(notes[:16])
			h.table.Remember(id, v, time.Now().UnixNano())
			if batch := binary.LittleEndian.Uint64(notes[25:]); batch != 0 {
				done[doneWith{id, batch}] = true
			}
		}
	}
	return done, nil
}

func batchKey(n uint64) string { return "b" + strconv.FormatUint(n, 36) }

func blockKey(n uint64) string { return "d" + strconv.FormatUint(n, 36) }

func encodeRange(numbers ...uint64) (b []byte) {
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}
