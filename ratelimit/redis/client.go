package redis

import (
	"context"
	"crypto/sha1" //nolint:gosec // it is how Redis names scripts
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// client holds the connections. They are made when they are first needed, and anew where heartbeats fail for long.
type client struct {
	options func() (rueidis.ClientOption, error)

	mu      sync.Mutex // guards everything declared below
	now     rueidis.Client
	dialing bool
	closed  bool
	since   time.Time // the first heartbeat in a row that failed
}

// renewAfter is how long heartbeats may fail until connections are made anew.
const renewAfter = 3 * time.Second

var errDialing = errors.New("it is not connected")

// get gives the connections that there are.
func (c *client) get() (rueidis.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now != nil {
		return c.now, nil
	}
	return nil, errDialing
}

// dial connects, unless there are connections or somebody else does. It waits for what does not answer.
func (c *client) dial() error {
	c.mu.Lock()
	if c.now != nil || c.dialing || c.closed {
		defer c.mu.Unlock()
		if c.now == nil {
			return errDialing
		}
		return nil
	}
	c.dialing = true
	c.mu.Unlock()
	var made rueidis.Client
	options, err := c.options()
	if err == nil {
		made, err = rueidis.NewClient(options)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dialing = false
	switch {
	case err != nil:
		return fmt.Errorf("connect: %w", err)
	case c.closed:
		go made.Close()
		return errDialing
	}
	c.now, c.since = made, time.Time{}
	return nil
}

// tell takes note of a heartbeat.
func (c *client) tell(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.since = time.Time{}
	case c.since.IsZero():
		c.since = time.Now()
	case c.now != nil && time.Since(c.since) > renewAfter:
		go c.now.Close() // it waits for what is under way
		c.now, c.since = nil, time.Time{}
	}
}

func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.now != nil {
		c.now.Close()
		c.now = nil
	}
}

func scriptName(text string) string {
	sum := sha1.Sum([]byte(text)) //nolint:gosec // as above
	return hex.EncodeToString(sum[:])
}

var decideName = scriptName(decideScript)

// callRedis writes fresh keys and runs scripts, all at once, and gives each its reply or error. What Redis does not know it is
// told; nothing else is tried twice. It may take until a silent connection is given up: who calls does not wait for so long.
func (s *Store) callRedis(fresh []fresh, scripts []script) {
	c, err := s.client.get()
	if err != nil {
		for i := range fresh {
			fresh[i].err = err
		}
		for i := range scripts {
			scripts[i].err = err
		}
		return
	}
	now, longer := "", "0"
	if s.o.virtual {
		now, longer = s.virtualNow(), "3600000"
	}
	ctx := context.Background() // with another, rueidis has two goroutines more between a script and the connection
	calls := make([]rueidis.Completed, 0, len(fresh)+len(scripts))
	for i := range fresh {
		k := &fresh[i]
		life := k.life()
		if s.o.virtual {
			life += 3600000
		}
		calls = append(calls, c.B().Set().Key(k.q.key()).Value(rueidis.BinaryString(appendStand(nil, k.stand))).Nx().PxMilliseconds(life).Build())
	}
	for i := range scripts {
		x := &scripts[i]
		calls = append(calls, c.B().Evalsha().Sha1(decideName).Numkeys(int64(len(x.names))).Key(x.names...).Arg(now, rueidis.BinaryString(x.body), longer).Build())
	}
	results := doAll(ctx, c, calls)
	for i := range fresh {
		fresh[i].there, fresh[i].err = written(results[i])
	}
	for i, r := range results[len(fresh):] {
		x := &scripts[i]
		if e, ok := rueidis.IsRedisErr(r.Error()); ok && e.IsNoScript() {
			r = c.Do(ctx, c.B().Eval().Script(decideScript).Numkeys(int64(len(x.names))).Key(x.names...).Arg(now, rueidis.BinaryString(x.body), longer).Build())
		}
		x.reply, x.err = r.AsBytes()
	}
}

// written says whether a key was there already.
func written(r rueidis.RedisResult) (there bool, err error) {
	switch said, err := r.ToString(); {
	case rueidis.IsRedisNil(err):
		return true, nil
	case err != nil:
		return false, err
	case said != "OK":
		return false, errReply
	}
	return false, nil
}

func doAll(ctx context.Context, c rueidis.Client, calls []rueidis.Completed) []rueidis.RedisResult {
	if len(calls) == 1 {
		return []rueidis.RedisResult{c.Do(ctx, calls[0])}
	}
	return c.DoMulti(ctx, calls...)
}

var beatLua = rueidis.NewLuaScript(beatScript)

// remember is how long a replica is counted after its last heartbeat.
const remember = 5 * time.Second

// beatRedis sends a heartbeat.
func (s *Store) beatRedis(l *lane) error {
	c, err := s.client.get()
	if err != nil {
		return err
	}
	sent := s.clock()
	found, err := beatLua.Exec(context.Background(), c, []string{l.probe}, []string{s.id, strconv.FormatInt(remember.Milliseconds(), 10)}).AsIntSlice()
	if err != nil {
		return err
	}
	if len(found) != 3 {
		return errReply
	}
	l.heard(found[0]*second+found[1]*1000, sent)
	s.replicas.Store(max(found[2], 1))
	return nil
}

// slots is how many a Cluster has.
const slots = 16384

// slot is the one a key lies in, as the Cluster specification has it: the CRC-16/XMODEM of the key, or of what is between
// its first { and the } after that, if that is anything.
func slot(key string) uint16 {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			key = tag
		}
	}
	var crc uint16
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc % slots
}

// virtualTime is the latest time that any question had.
func (s *Store) virtualTime(batch []*question) int64 {
	for _, q := range batch {
		s.time.ahead.Store(max(s.time.ahead.Load(), q.now))
	}
	return s.time.ahead.Load()
}

// virtualNow is the same of all batches, as decide.lua reads it.
func (s *Store) virtualNow() string {
	now := s.time.ahead.Load()
	b := binary.BigEndian.AppendUint64(nil, math.Float64bits(float64(now/second)))
	return string(binary.BigEndian.AppendUint32(b, uint32(now%second)))
}
