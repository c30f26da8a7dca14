package redis

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/machinenativeops/weir/internal/servers"
	"github.com/machinenativeops/weir/ratelimit"
)

// front is in front of a real Redis, and may answer some commands in its place, so that it answers as it rarely does.
type front struct {
	address string
	words   []string               // commands that have one of these
	instead atomic.Pointer[string] // answer to them, after which the connection ends if it is not whole; nil: what Redis says
}

func newFront(t *testing.T, server *servers.Redis, words ...string) *front {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &front{address: l.Addr().String(), words: words}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() { f.serve(c, server.Address) })
		}
	})
	t.Cleanup(func() { // the store has closed its connections
		_ = l.Close()
		tasks.Wait()
	})
	return f
}

// serve has Redis answer one command after the other.
func (f *front) serve(c net.Conn, server string) {
	defer func() { _ = c.Close() }()
	back, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer func() { _ = back.Close() }()
	commands, answers := bufio.NewReader(c), bufio.NewReader(back)
	for {
		command, err := value(commands)
		if err != nil {
			return
		}
		instead := f.instead.Load()
		if instead == nil || !slices.ContainsFunc(f.words, func(w string) bool { return bytes.Contains(command, []byte("\r\n"+w+"\r\n")) }) {
			if _, err := back.Write(command); err != nil {
				return
			}
			answer, err := value(answers)
			if err != nil {
				return
			}
			instead = new(string)
			*instead = string(answer)
		}
		if _, err := io.WriteString(c, *instead); err != nil || !strings.HasSuffix(*instead, "\r\n") {
			return
		}
	}
}

// value reads one value as Redis's protocol has it.
func value(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(line[1:]))) // of what has no length, it is not used
	switch line[0] {
	case '$', '=', '!':
		if n < 0 {
			return line, nil
		}
		text := make([]byte, n+2)
		_, err := io.ReadFull(r, text)
		return append(line, text...), err
	case '%':
		n *= 2
	case '*', '~', '>':
	default:
		return line, nil
	}
	for range n {
		one, err := value(r)
		if err != nil {
			return nil, err
		}
		line = append(line, one...)
	}
	return line, nil
}

// TestWhateverRedisAnswers: an answer that is none of decide.lua's is as good as none, and changes nothing of what is counted.
func TestWhateverRedisAnswers(t *testing.T) {
	server := servers.RunRedis(t)
	f := newFront(t, server, decideName, "EVAL")
	o := patient(f.address)
	o.Share = true
	s := start(t, o)
	rate := ratelimit.NewFixedWindow(3, 300*day)
	for name, answer := range answers() {
		strict, counted := hit(name+" strict", &rate), hit(name, &rate)
		strict.Strict, counted.Strict = true, true
		eventually(t, name+": redis is asked", func() bool { ok, err := take(t, s, counted); return ok && err == nil })
		f.instead.Store(&answer)
		_, err := take(t, s, strict)
		require.ErrorIs(t, err, ratelimit.ErrUnavailable, name)
		f.instead.Store(nil)
		for n := range 3 {
			eventually(t, name+": redis is asked again", func() bool {
				ok, err := take(t, s, counted)
				assert.True(t, err != nil || ok == (n < 2), "%s: of three, number %d passes: %v", name, n+2, ok)
				return err == nil
			})
		}
	}
}

// What Redis answers to a key that is written is yes or no, or an error; after a no, the script is asked.
func TestWhateverRedisAnswersOfFreshKeys(t *testing.T) {
	server := servers.RunRedis(t)
	f := newFront(t, server, "NX")
	o := patient(f.address)
	o.Share, o.Lease = true, DefaultLease
	s := start(t, o)
	eventually(t, "the time is known", s.time.sure)
	rate := ratelimit.NewRate(100, 100, time.Hour)
	good := map[string]bool{"a simple string": true, "a short string": true, "null": true, "null of RESP2": true, "no array": true}
	for name, answer := range answers() {
		before := hit(name+" before", &rate)
		before.Strict = true
		eventually(t, name+": redis is asked", func() bool { ok, err := take(t, s, before); return ok && err == nil })
		h := hit(name, &rate)
		h.Strict = true
		s.lanes[0].mu.Lock()
		s.lanes[0].luck = luck{}
		s.lanes[0].mu.Unlock()
		f.instead.Store(&answer)
		ok, err := take(t, s, h)
		f.instead.Store(nil)
		if good[name] {
			require.NoError(t, err, name)
			require.True(t, ok, name)
		} else {
			require.ErrorIs(t, err, ratelimit.ErrUnavailable, name)
		}
	}
}

// answers are every kind of value, and errors.
func answers() map[string]string {
	bulk := func(text string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(text), text) }
	shapes := map[string]string{
		"nothing": "", "half an answer": "$40\r\nx", "a simple string": "+OK\r\n", "an integer": ":1\r\n", "a negative one": ":-1\r\n",
		"null": "_\r\n", "null of RESP2": "$-1\r\n", "no array": "*-1\r\n", "an empty array": "*0\r\n", "an array": "*2\r\n:1\r\n$1\r\nx\r\n", "a set": "~1\r\n:1\r\n",
		"a map": "%1\r\n+a\r\n:1\r\n", "a double": ",1.5\r\n", "infinity": ",inf\r\n", "true": "#t\r\n", "a big number": "(3492890328409238509324850943850943825024385\r\n",
		"a verbatim string": "=7\r\ntxt:abc\r\n", "a blob error": "!21\r\nSYNTAX invalid syntax\r\n", "an empty string": bulk(""), "a short string": bulk("OK"),
		"one too short": bulk(string(make([]byte, 12+standSize-1))), "one too long": bulk(string(make([]byte, 12+standSize+1))), "two keys": bulk(string(make([]byte, 12+2*standSize))),
		"no time": bulk(strings.Repeat("\xff", 12+standSize)),
	}
	for _, e := range []string{
		"ERR unknown command 'EVALSHA'", "NOSCRIPT No matching script. Please use EVAL.", "MOVED 1 127.0.0.1:1", "ASK 1 127.0.0.1:1", "TRYAGAIN Multiple keys request during rehashing of slot",
		"CLUSTERDOWN The cluster is down", "CROSSSLOT Keys in request don't hash to the same slot", "LOADING Redis is loading the dataset in memory",
		"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", "OOM command not allowed when used memory > 'maxmemory'.",
		"READONLY You can't write against a read only replica.", "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
		"NOREPLICAS Not enough good replicas to write.", "MISCONF Redis is configured to save RDB snapshots", "NOAUTH Authentication required.", "WRONGPASS invalid username-password pair",
		"NOPERM this user has no permissions to run the 'evalsha' command", "WRONGTYPE Operation against a key holding the wrong kind of value", "UNKILLABLE", "",
	} {
		shapes[e] = "-" + e + "\r\n"
	}
	return shapes
}

// standings are what Redis may have of a key: every shape that decide.lua writes, and what it never does.
func standings(now int64) (all [][]byte) {
	add := func(at ratelimit.Arrival, held hold) { all = append(all, appendStand(nil, stand{at, held})) }
	add(ratelimit.Arrival{}, hold{})
	for _, ns := range []int64{now - 1, now, now + 1, now + second/2, now + 3600*second, now - now%second + 7, now - now%second + second + 500, now - 60*second, 1, 1 << 62} {
		for _, frac := range []uint32{0, 1, 7, owed, owed | 7, math.MaxUint32} {
			add(ratelimit.Arrival{NS: ns, Frac: frac}, hold{})
			add(ratelimit.Arrival{NS: ns, Frac: frac}, hold{now/second + 7, 200_000_000})
		}
	}
	add(ratelimit.Arrival{NS: now}, hold{now/second - 1, second}) // it is over
	add(ratelimit.Arrival{NS: now}, hold{math.MaxUint32, 1 << 49})
	put := func(b []byte, n float64) { binary.BigEndian.PutUint64(b, math.Float64bits(n)) }
	for _, n := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, 0.5, 9_200_000_000, 1e300, math.SmallestNonzeroFloat64, math.Copysign(0, -1)} {
		b := make([]byte, standSize)
		put(b, n)
		all = append(all, b)
		held := appendStand(nil, stand{ratelimit.Arrival{NS: now}, hold{now/second + 7, 1}})
		put(held[20:], n)
		all = append(all, held)
	}
	return append(all, bytes.Repeat([]byte{0xff}, standSize), bytes.Repeat([]byte("x"), standSize))
}

// FuzzReply: whatever an answer says of keys, nothing panics, and no more pass than the limit.
func FuzzReply(f *testing.F) {
	const now = 1_795_000_000_123_456_789
	head := appendArrival(nil, ratelimit.Arrival{NS: now})[:12]
	whole := func(stands ...[]byte) []byte { return append(bytes.Clone(head), bytes.Join(stands, nil)...) }
	all := standings(now)
	for i, b := range all {
		for which := range leaseRates() {
			f.Add(whole(b), uint64(i%3), uint64(5*i), uint8(which))
		}
		f.Add(whole(b, all[(i+1)%len(all)], all[(7*i)%len(all)]), uint64(1), uint64(1<<20), uint8(100+i))
	}
	for _, b := range [][]byte{nil, head, head[:11], []byte("OK"), make([]byte, 12), make([]byte, 40), whole(all[1], []byte("x")), bytes.Repeat([]byte{0xff}, 40)} {
		f.Add(b, uint64(1<<63), uint64(math.MaxUint64), uint8(6))
	}
	f.Fuzz(func(t *testing.T, reply []byte, n, wish uint64, which uint8) {
		rates := leaseRates()
		rate := &rates[int(which)%len(rates)]
		keys := max(1, (len(reply)-12)/standSize)
		now, at, err := readReply(reply, keys)
		if err != nil {
			return
		}
		q := question{}
		for i := range min(keys, 8) {
			q.parts = append(q.parts, part{key: "k", index: i + 1, wish: min(wish, rate.Limit()), ahead: time.Millisecond, holds: holdFor * int64(which/100), Hit: ratelimit.Hit{Rate: rate, N: n, Kind: ratelimit.Kind(which % 3)}})
		}
		q.decide(now, at)
		for i := range q.parts {
			p, now := &q.parts[i], now
			require.LessOrEqual(t, p.Decision.Remaining, rate.Limit())
			l := lease{rate: rate}
			l.hear(now, p.from, p.to, p.held)
			for range 4 {
				next, d, v := l.judge(now, ratelimit.Take, 1)
				require.LessOrEqual(t, d.Remaining, rate.Limit())
				if v == passes {
					require.False(t, l.end.Before(next))
					l.at = next
				}
				now += int64(time.Millisecond)
			}
		}
	})
}
