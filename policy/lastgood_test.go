package policy_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/machinenativeops/weir/policy"
)

func service(name, host, version string) string {
	return fmt.Sprintf("---\nkind: Service\nmetadata: {name: %s}\n"+
		"spec: {hosts: [%s], versions: [{name: %s}], endpoints: {static: [{address: 10.0.0.1, port: 80}]}}\n", name, host, version)
}

func route(name, service, to, version string) string {
	return fmt.Sprintf("---\nkind: Route\nmetadata: {name: %s}\nspec: {service: %s, rules: [{to: [{service: %s, version: %s}]}]}\n",
		name, service, to, version)
}

func mesh(name string) string { return fmt.Sprintf("---\nkind: Mesh\nmetadata: {name: %s}\n", name) }

// sound fails unless the set is good as a whole: nothing is claimed twice, and nothing refers to what is not there.
func sound(t *testing.T, set *policy.Set) {
	t.Helper()
	hosts, routed := make(map[string]policy.Ref), make(map[string]policy.Ref)
	for _, s := range set.Services {
		for _, h := range s.Spec.Hosts {
			if other, taken := hosts[h]; taken {
				t.Errorf("%s and %s both have the host %s", other, s.Ref(), h)
			}
			hosts[h] = s.Ref()
		}
	}
	for _, r := range set.Routes {
		if other, taken := routed[r.Spec.Service]; taken {
			t.Errorf("%s and %s are both the Route of %s", other, r.Ref(), r.Spec.Service)
		}
		routed[r.Spec.Service] = r.Ref()
		for _, rule := range r.Spec.Rules {
			for _, to := range rule.To {
				resolves(t, set, r.Ref(), to)
			}
		}
	}
}

func resolves(t *testing.T, set *policy.Set, from policy.Ref, to policy.Destination) {
	t.Helper()
	s := set.Service(policy.ParseRef(to.Service, ""))
	if s == nil {
		t.Errorf("%s refers to the service %s, which is not there", from, to.Service)
		return
	}
	for _, v := range s.Spec.Versions {
		if v.Name == to.Version {
			return
		}
	}
	t.Errorf("%s refers to %s of %s, which is not there", from, to.Version, to.Service)
}

func TestLastGoodVersionsGoTogetherWithWhatIsNew(t *testing.T) {
	for what, c := range map[string]struct {
		before, after string
		problems      int
	}{
		"a host that is wanted from one who keeps it": {
			service("a", "h1", "v1") + service("b", "h2", "v1"),
			service("a", "h2", "v1") + service("b", "h2", "v1"), 2,
		},
		"a version that only one of two routes has followed": {
			service("a", "h1", "v1") + service("b", "h2", "v1") + route("a", "a", "a", "v1"),
			service("a", "h1", "v2") + service("b", "h2", "v1") + route("a", "a", "a", "v1") + route("b", "b", "a", "v2"), 2,
		},
		"a service that is gone, still routed to, and whose host another takes": {
			service("a", "h1", "v1") + route("a", "a", "a", "v1"),
			service("c", "h1", "v1") + route("a", "a", "a", "v1"), 2,
		},
		"a second route for the service of one that is refused": {
			service("a", "h1", "v1") + service("b", "h2", "v1") + route("r1", "a", "a", "v1"),
			service("a", "h1", "v1") + service("b", "h2", "v1") + route("r1", "b", "a", "nope") + route("r2", "a", "a", "v1"), 2,
		},
		"two of a kind of which there is one": {mesh("a"), mesh("b") + mesh("a"), 2},
		"a new name for the one of its kind":  {mesh("a"), mesh("b"), 0},
	} {
		t.Run(what, func(t *testing.T) {
			last, problems := load(c.before, nil)
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			set, problems := load(c.after, last)
			if len(problems) != c.problems {
				t.Errorf("%d problems, want %d: %v", len(problems), c.problems, problems)
			}
			sound(t, set)
		})
	}
}

func TestRefusedServiceTakesWhatRefersToItAlong(t *testing.T) {
	broken := strings.Replace(service("a", "h1", "v1"), "port: 80", "port: 0", 1)
	set, problems := load(broken+service("b", "h2", "v1")+route("b", "b", "a", "v1"), nil)
	if len(problems) != 2 || len(set.Routes) != 0 || len(set.Services) != 1 {
		t.Errorf("problems %v, %d routes, %d services", problems, len(set.Routes), len(set.Services))
	}
}

func TestDocumentMovedOutOfAnUnreadableFile(t *testing.T) {
	a := policy.File{Name: "a.yaml", Data: []byte(service("a", "h1", "v1"))}
	last, _ := policy.Load([]policy.File{a}, nil)
	set, problems := policy.Load([]policy.File{
		{Name: "a.yaml", Data: []byte("\tx: [")}, {Name: "b.yaml", Data: []byte(service("a", "h1", "v2"))},
	}, last)
	if len(problems) != 1 || len(set.Services) != 1 || set.Services[0].Origin.File != "b.yaml" {
		t.Errorf("problems %v, services %+v", problems, set.Services)
	}
}

// TestAnySequenceOfSetsIsSound makes random edits, right and wrong ones: what is in force must be good at each step.
func TestAnySequenceOfSetsIsSound(t *testing.T) {
	const seeds, steps = 200, 12
	for seed := range uint64(seeds) {
		r := rand.New(rand.NewPCG(seed, 0))
		var last *policy.Set
		for step := range steps {
			set, _ := load(randomSet(r), last)
			sound(t, set)
			if t.Failed() {
				t.Fatalf("seed %d, step %d", seed, step)
			}
			last = set
		}
	}
}

func randomSet(r *rand.Rand) string {
	var b strings.Builder
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	for _, name := range []string{"a", "b", "c", "d"} {
		if r.IntN(4) > 0 {
			b.WriteString(service(name, pick("h1", "h2", "h3", "h4", "h5", "-bad"), pick("v1", "v2", "v2")))
		}
		if r.IntN(3) > 0 {
			b.WriteString(route(name, pick("a", "b", "c", "d"), pick("a", "b", "c", "d"), pick("v1", "v2")))
		}
	}
	if r.IntN(10) == 0 {
		b.WriteString("---\n\t[")
	}
	return b.String()
}
