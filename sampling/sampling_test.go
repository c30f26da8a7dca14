package sampling

import (
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/policy"
)

func TestThresholdFromPercent(t *testing.T) {
	for _, tt := range []struct {
		percent float64
		want    string
	}{
		{100, "0"},
		{150, "0"},
		{0, ""},
		{-1, ""},
		{math.NaN(), ""},
		{50, "8"},
		{25, "c"},
		{75, "4"},
		{10, "e666"},
		{20, "cccd"},
		{30, "b333"},
		{5, "f3333"},
		{1, "fd70a"},
		{0.1, "ffbe77"},
	} {
		if got := FromPercent(tt.percent).String(); got != tt.want {
			t.Errorf("FromPercent(%v) = %q, want %q", tt.percent, got, tt.want)
		}
	}
}

func TestThresholdIsCloseAndMonotone(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		p := math.Pow(10, 8*random.Float64()-6)
		got := FromPercent(p)
		if share := got.Probability() * 100; math.Abs(share-p) > p*1e-3+1e-12 {
			t.Fatalf("%v %% became %v %%", p, share)
		}
		if higher := FromPercent(p * (1 + random.Float64())); higher > got {
			t.Fatalf("a rate above %v %% keeps less than %s: %s", p, got, higher)
		}
		if back, ok := ParseThreshold(got.String()); !ok || back != got {
			t.Fatalf("%v %% is written %q, read back as %q", p, got, back)
		}
		if count := got.AdjustedCount() * got.Probability(); math.Abs(count-1) > 1e-9 {
			t.Fatalf("%v %%: adjusted count is off: %v", p, count)
		}
	}
	if Never.AdjustedCount() != 0 || Always.AdjustedCount() != 1 {
		t.Errorf("adjusted counts of never and always: %v and %v", Never.AdjustedCount(), Always.AdjustedCount())
	}
}

func TestParseThresholdRefuses(t *testing.T) {
	for _, s := range []string{"", "E666", "0x1", "123456789abcdef", "g", " 8"} {
		if got, ok := ParseThreshold(s); ok {
			t.Errorf("ParseThreshold(%q) = %s", s, got)
		}
	}
}

func TestKeepAtTheEdges(t *testing.T) {
	const last = Randomness(1<<56 - 1)
	if !Always.Keep(0) || Never.Keep(last) || !FromPercent(50).Keep(1<<55) || FromPercent(50).Keep(1<<55-1) {
		t.Error("a trace is kept where its randomness is not below the threshold")
	}
}

func TestRandomnessIsTheLastSevenBytes(t *testing.T) {
	id := traceID(t, "f47ac10b58cc4372a5670e02b2c3d479")
	if got, want := FromTraceID(id), Randomness(0x670e02b2c3d479); got != want {
		t.Errorf("got %x, want %x", got, want)
	}
	if r, ok := ParseRandomness("670e02b2c3d479"); !ok || r != FromTraceID(id) {
		t.Errorf("explicit randomness: %x %v", r, ok)
	}
	if _, ok := ParseRandomness("670e02b2c3d4"); ok {
		t.Error("explicit randomness must have 14 digits")
	}
}

func TestStateIsReadAndWritten(t *testing.T) {
	for _, tt := range []struct {
		in, want string
		t        Threshold
	}{
		{"", "ot=th:8", FromPercent(50)},
		{"", "", Never},
		{"ot=th:c", "ot=th:8", FromPercent(50)},
		{"ot=th:c", "", Never},
		{"a=b, ot=rv:670e02b2c3d479;th:c;x:y,c=d", "ot=th:8;rv:670e02b2c3d479;x:y,a=b,c=d", FromPercent(50)},
		{"vendor=v", "ot=th:0,vendor=v", Always},
		{" , a=b,,", "ot=th:0,a=b", Always},
	} {
		got := WithThreshold(tt.in, tt.t)
		if got != tt.want {
			t.Errorf("WithThreshold(%q, %s) = %q, want %q", tt.in, tt.t, got, tt.want)
		}
		if s := ParseState(got); s.HasThreshold != (tt.t < Never) || s.HasThreshold && s.Threshold != tt.t {
			t.Errorf("%q is read as %+v", got, s)
		}
	}
}

func TestTracestateStaysWithinItsLimits(t *testing.T) {
	var members []string
	for i := range 32 {
		members = append(members, fmt.Sprintf("v%d=x", i))
	}
	got := strings.Split(WithThreshold(strings.Join(members, ","), FromPercent(50)), ",")
	if len(got) != 32 || got[0] != "ot=th:8" || got[31] != "v30=x" {
		t.Errorf("%d members: %v", len(got), got)
	}
	long := WithThreshold("ot=a:"+strings.Repeat("b", 250)+";rv:670e02b2c3d479", FromPercent(50))
	if long != "ot=th:8;rv:670e02b2c3d479" {
		t.Errorf("got %q", long)
	}
}

func TestEarlierSamplingIsRespected(t *testing.T) {
	r := Randomness(0xd0000000000000)
	quarter, half := FromPercent(25), FromPercent(50)
	for _, tt := range []struct {
		state string
		ours  Threshold
		want  Threshold
	}{
		{"", half, half},
		{"ot=th:8", quarter, quarter},
		{"ot=th:c", half, quarter},
		{"ot=th:e", half, half}, // contradicts itself: at e the trace would have been dropped
		{"ot=th:zz", half, half},
	} {
		if got := ParseState(tt.state).Final(tt.ours, r); got != tt.want {
			t.Errorf("%q and %s: got %s, want %s", tt.state, tt.ours, got, tt.want)
		}
	}
	id := traceID(t, "f47ac10b58cc4372a5670e02b2c3d479")
	if got := ParseState("ot=rv:00000000000001").RandomnessOf(id); got != 1 {
		t.Errorf("explicit randomness is not used: %x", got)
	}
}

func TestPatterns(t *testing.T) {
	for _, tt := range []struct {
		pattern, s string
		want       bool
	}{
		{"GET /a", "GET /a", true},
		{"GET /a", "GET /ab", false},
		{"", "", true},
		{"", "x", false},
		{"*", "", true},
		{"*", "anything", true},
		{"GET /healthz*", "GET /healthz", true},
		{"GET /healthz*", "GET /healthz/live", true},
		{"*/b", "a/b", true},
		{"*/b", "a/bc", false},
		{"a*a", "a", false},
		{"a*a", "aa", true},
		{"a*b*c", "a-b-b-c", true},
		{"a*b*c", "a-c", false},
		{"**", "x", true},
		{"a.c", "abc", false},
		{"shop/*", "shop/checkout", true},
	} {
		if got := compilePattern(tt.pattern).match(tt.s); got != tt.want {
			t.Errorf("%q on %q: %v", tt.pattern, tt.s, got)
		}
	}
}

func TestClassIsTheDocumentsThenTheAttributes(t *testing.T) {
	c := NewClasses(services())
	for _, tt := range []struct {
		ref       policy.Ref
		attribute string
		want      string
	}{
		{policy.Ref{Namespace: "shop", Name: "checkout"}, "", "api"},
		{policy.Ref{Namespace: "shop", Name: "checkout"}, "main", "api"},
		{policy.Ref{Name: "checkout"}, "main", "main"},
		{policy.Ref{Name: "checkout"}, "", "default"},
		{policy.Ref{Namespace: "shop", Name: "jobs"}, "", "background"},
		{policy.Ref{Namespace: "shop", Name: "plain"}, "main", "main"},
		{policy.Ref{Namespace: "shop", Name: "plain"}, "", "default"},
	} {
		if got := c.Of(tt.ref, tt.attribute); got != tt.want {
			t.Errorf("%s with %q: %s, want %s", tt.ref, tt.attribute, got, tt.want)
		}
	}
}

func TestRates(t *testing.T) {
	r := testRates()
	checkout, jobs := policy.Ref{Namespace: "shop", Name: "checkout"}, policy.Ref{Namespace: "shop", Name: "jobs"}
	for _, tt := range []struct {
		ref                  policy.Ref
		attribute, operation string
		percent              float64
		class                string
	}{
		{checkout, "", "GET /cart", 30, "api"},
		{checkout, "", "POST /pay", 100, "api"},
		{checkout, "", "POST /pay", 100, "api"}, // remembered
		{jobs, "", "POST /pay", 5, "background"},
		{jobs, "", "GET /healthz/live", 1, "background"},
		{jobs, "", "GET /secret", 0, "background"},
		{policy.Ref{Name: "x"}, "main", "a", 20, "main"},
		{policy.Ref{Name: "x"}, "", "a", 10, "default"},
		{policy.Ref{Name: "x"}, "invented", "a", 10, "default"},
	} {
		for range 2 {
			d := r.Decide(tt.ref, tt.attribute, tt.operation, [16]byte{})
			if d.Threshold != FromPercent(tt.percent) || d.Class != tt.class {
				t.Errorf("%s %q: %s of class %s, want %v %% of %s", tt.ref, tt.operation, d.Threshold, d.Class, tt.percent, tt.class)
			}
		}
	}
}

func TestRatesInForceAreTold(t *testing.T) {
	r := testRates()
	checkout := r.Service(policy.Ref{Namespace: "shop", Name: "checkout"}, "")
	r.Service(policy.Ref{Namespace: "shop", Name: "jobs"}, "")
	for _, operation := range []string{"POST /pay", "GET /cart", "GET /healthz/live"} {
		checkout.Threshold(operation)
	}
	var got []string
	for _, one := range r.InForce(10) {
		got = append(got, fmt.Sprintf("%s %q %s %v", one.Service, one.Operation, one.Class, math.Round(one.Percent)))
	}
	want := []string{`shop/checkout "" api 30`, `shop/checkout "GET /healthz/live" api 1`, `shop/checkout "POST /pay" api 100`, `shop/jobs "" background 5`}
	if !slices.Equal(got, want) || len(r.InForce(2)) != 2 {
		t.Errorf("told are %q, want %q", got, want)
	}
}

func TestInventedNamesAreNotRememberedForEver(t *testing.T) {
	r := testRates()
	for i := range maxServices + 10 {
		r.Service(policy.Ref{Name: fmt.Sprint(i)}, "")
	}
	if len(r.services) != maxServices {
		t.Errorf("%d services are remembered", len(r.services))
	}
	s := r.Service(policy.Ref{Name: "one"}, "")
	for i := range maxOperations + 10 {
		if got := s.Threshold(fmt.Sprintf("GET /healthz/%d", i)); got != FromPercent(1) {
			t.Fatalf("operation %d: %s", i, got)
		}
	}
	if len(s.seen) != maxOperations {
		t.Errorf("%d operations are remembered", len(s.seen))
	}
}

// TestServicesOfOneName are told apart, though they are looked for in the same place.
func TestServicesOfOneName(t *testing.T) {
	r := testRates()
	for range 2 {
		for ref, want := range map[policy.Ref]string{{Namespace: "shop", Name: "jobs"}: "background", {Namespace: "other", Name: "jobs"}: "main"} {
			if got := r.Service(ref, "main"); got.Class != want || got != r.Service(ref, "main") {
				t.Errorf("%s is of class %s, want %s", ref, got.Class, want)
			}
		}
		if got := r.Service(policy.Ref{Namespace: "other", Name: "jobs"}, "").Class; got != DefaultClass {
			t.Errorf("without an attribute it is of class %s", got)
		}
	}
}

func TestDecisionsNestAndSharesHold(t *testing.T) {
	percents := []float64{1, 5, 20, 30, 50}
	kept := make([]int, len(percents))
	random := rand.New(rand.NewPCG(3, 4))
	const n = 1_000_000
	for range n {
		r := FromTraceID(uuid4(random))
		below := false
		for i, p := range percents {
			keep := FromPercent(p).Keep(r)
			if below && !keep {
				t.Fatalf("%x is kept below %v %% but not at it", r, p)
			}
			if below = keep; keep {
				kept[i]++
			}
		}
	}
	for i, p := range percents {
		share := p / 100
		if off := math.Abs(float64(kept[i])/n-share) / math.Sqrt(share*(1-share)/n); off > 4 {
			t.Errorf("%v %%: %d of %d kept, %.1f standard errors off", p, kept[i], n, off)
		}
	}
}

func FuzzTracestate(f *testing.F) {
	f.Add("a=b,ot=th:c;rv:670e02b2c3d479", uint64(1)<<55)
	f.Fuzz(func(t *testing.T, tracestate string, bits uint64) {
		want := Threshold(bits % uint64(Never))
		written := WithThreshold(tracestate, want)
		if s := ParseState(written); !s.HasThreshold || s.Threshold != want {
			t.Fatalf("%q: wrote %q for %s, read %+v", tracestate, written, want, s)
		}
		if again := WithThreshold(written, want); again != written {
			t.Fatalf("%q is rewritten to %q", written, again)
		}
	})
}

// BenchmarkDecide is the sampler's whole decision on a span. It must not allocate.
func BenchmarkDecide(b *testing.B) {
	r := testRates()
	id := uuid4(rand.New(rand.NewPCG(5, 6)))
	for _, bm := range []struct{ name, service, operation string }{
		{"class", "jobs", "run"}, {"operation", "checkout", "POST /pay"},
	} {
		b.Run(bm.name, func(b *testing.B) {
			ref := policy.Ref{Namespace: "shop", Name: bm.service}
			b.ReportAllocs()
			for b.Loop() {
				r.Decide(ref, "", bm.operation, id)
			}
		})
	}
}

// BenchmarkThreshold is the decision where the service is known already, as it is within a resource.
func BenchmarkThreshold(b *testing.B) {
	s := testRates().Service(policy.Ref{Namespace: "shop", Name: "checkout"}, "")
	id := uuid4(rand.New(rand.NewPCG(5, 6)))
	b.ReportAllocs()
	for b.Loop() {
		s.Threshold("POST /pay").Keep(FromTraceID(id))
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	r := testRates()
	ref := policy.Ref{Namespace: "shop", Name: "checkout"}
	if n := testing.AllocsPerRun(100, func() { r.Decide(ref, "", "POST /pay", [16]byte{}) }); n != 0 {
		t.Errorf("%v allocations a decision", n)
	}
}

func testRates() *Rates {
	return NewRates(&policy.SamplingSpec{
		Classes: map[string]float64{"main": 20, "api": 30, "background": 5, "health": 1, "executions": 50, "default": 10},
		Operations: []policy.OperationRate{
			{Service: "shop/checkout", Operation: "POST /pay", Percent: 100},
			{Operation: "GET /healthz*", Percent: 1},
			{Operation: "GET /secret", Percent: 0},
		},
	}, services(), 1, nil)
}

func services() []*policy.Document[policy.ServiceSpec] {
	return []*policy.Document[policy.ServiceSpec]{
		{Metadata: policy.Metadata{Name: "checkout", Namespace: "shop"}, Spec: policy.ServiceSpec{Class: "api"}},
		{Metadata: policy.Metadata{Name: "jobs", Namespace: "shop"}, Spec: policy.ServiceSpec{Class: "background"}},
		{Metadata: policy.Metadata{Name: "plain", Namespace: "shop"}, Spec: policy.ServiceSpec{Class: "default"}},
	}
}

func traceID(t *testing.T, s string) (id [16]byte) {
	t.Helper()
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		t.Fatal(err)
	}
	return id
}

func uuid4(random *rand.Rand) (id [16]byte) {
	for i := range id {
		id[i] = byte(random.Uint32())
	}
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}
