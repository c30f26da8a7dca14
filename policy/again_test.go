package policy_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/policy"
)

// bare is a set without what Load remembers of how it made it.
func bare(s *policy.Set) *policy.Set {
	return &policy.Set{
		Mesh: s.Mesh, Gateways: s.Gateways, Services: s.Services, Routes: s.Routes, RateLimits: s.RateLimits,
		Sampling: s.Sampling, Retention: s.Retention,
	}
}

// edit changes one of the files somehow, often into what is refused.
func edit(r *rand.Rand, files []policy.File) []policy.File {
	pick := func(all ...string) string { return all[r.IntN(len(all))] }
	one := func() string {
		name, host, version := pick("a", "b", "c"), pick("h1", "h2", "h3"), pick("v1", "v2")
		switch r.IntN(16) {
		case 0:
			return mesh(pick("m", "n"))
		case 1:
			return pick("---\nkind: Service\nmetadata: {name: a}\n", "---\n[]\n", "---\na: {\n", "---\n# nothing\n", "...\n%YAML 1.1\n---\nkind: Mesh\nmetadata: {name: m}\n", "---\nkind: Mesh\nmetadata: {name: &n m}\nspec: *n\n", "---\nx: &a [*a]\n")
		case 2, 3, 4:
			return route(pick("a", "b"), name, pick("a", "b", "c"), version)
		default:
			return service(name, host, version)
		}
	}
	switch at := r.IntN(len(files) + 1); {
	case at == len(files) || r.IntN(8) == 0:
		return append(files, policy.File{Name: pick("x.yaml", "y.yaml", "z.yaml"), Data: []byte(one() + one())})
	case len(files) > 2 || r.IntN(4) == 0:
		return append(files[:at:at], files[at+1:]...)
	default:
		documents := strings.SplitAfter(string(files[at].Data), "\n---\n")
		switch n := r.IntN(len(documents)); r.IntN(4) {
		case 0:
			documents[n] = strings.TrimPrefix(one(), "---\n")
		case 1:
			documents[n] += pick("\n", "# a comment\n")
		case 2:
			documents = append(documents[:n], documents[n+1:]...)
		default:
			documents = append(documents, one())
		}
		files = append([]policy.File(nil), files...)
		files[at].Data = []byte(strings.Join(documents, ""))
		return files
	}
}

// TestLoadAgain: whatever was read before, and however often, Load gives what it gives of the same files and last good
// documents for the first time.
func TestLoadAgain(t *testing.T) {
	refused := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 6))
		var files []policy.File
		var last, fresh *policy.Set
		for round := range 60 {
			files = edit(r, files)
			set, problems := policy.Load(files, last)
			if fresh == nil {
				fresh, _ = policy.Load(nil, nil)
			}
			again, more := policy.Load(files, bare(fresh))
			if !reflect.DeepEqual(problems, more) {
				t.Fatalf("seed %d, round %d: problems are\n%v, want\n%v", seed, round, problems, more)
			}
			if got, want := said(t, set), said(t, again); got != want {
				t.Fatalf("seed %d, round %d: the set is\n%s, want\n%s", seed, round, got, want)
			}
			sound(t, set)
			refused += min(len(problems), 1)
			last, fresh = set, again
		}
	}
	if refused < 500 || refused > 3400 {
		t.Errorf("%d of 3600 rounds have problems: these edits are not what they were", refused)
	}
}

func said(t *testing.T, s *policy.Set) string {
	t.Helper()
	text, err := json.MarshalIndent(bare(s), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s\n%+v", text, s.Written())
}

// TestLoadShares: what is as it was is the same document.
func TestLoadShares(t *testing.T) {
	files := fleet(5)
	before, _ := policy.Load(files, nil)
	files[2] = fleetFile(2, 9)
	after, _ := policy.Load(files, before)
	for i, s := range after.Services {
		if same := s == before.Services[i]; same != (i != 2) {
			t.Errorf("%s: same is %v", s.Ref(), same)
		}
	}
	for i, r := range after.Routes { // beside it in its file
		if r != before.Routes[i] {
			t.Errorf("%s is made anew", r.Ref())
		}
	}
}
