package serve_test

import (
	"testing"

	"github.com/machinenativeops/weir/mesh"
)

// TestSecretsAreRefusedByOneOnly: what is wrong with the files of one machine takes nothing from others, is told with the
// proxy's name, and is forgotten when it takes another version or wants the secret no more.
func TestSecretsAreRefusedByOneOnly(t *testing.T) {
	protocols(t, func(w *world, connect func(mesh.Proxy, *client) *client) {
		start := with(first, "s a", "s1", "s b", "s2")
		w.server.Apply(snapshot(start))
		lame := connect(edge, nil)
		lame.refuse["s1"] = true
		settle(lame)
		want(t, "the one without files", lame.came(), "+a@c1 +b@c2 +a@e1 ! +x@l1 +a@r1 +b@r2 +b@s2")
		well := connect(edge, nil)
		settle(lame, well)
		want(t, "nothing is tried again", lame.came(), "")
		want(t, "another one of the same gateway", well.came(), "+a@c1 +b@c2 +a@e1 +a@s1 +x@l1 +a@r1 +b@r2 +b@s2")
		s := w.server.Status()
		if len(s.Refused) != 1 {
			t.Fatalf("refused: %+v", s.Refused)
		}
		if r := s.Refused[0]; r.Name != "a" || r.Version != "s1" || r.Message != "no such thing as that" || r.Node == "" || len(r.Sources) != 1 {
			t.Errorf("refused: %+v", r)
		}
		w.apply(with(start, "s a", "s9"), lame, well)
		want(t, "another version", lame.came(), "+a@s9")
		if s := w.server.Status(); len(s.Refused) != 0 {
			t.Errorf("refused still: %+v", s.Refused)
		}
	})
}
