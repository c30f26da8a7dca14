package serve

import "time"

// unreadLocked notes secrets whose files a proxy can't read. It holds on to what it had, watches their folders, and takes
// them when they are there, without being asked and without a word.
func (st *stream) unreadLocked(f *flight, message string) {
	for _, i := range f.items {
		put(&st.unread, i.name, Refusal{Type: i.kind.String(), Name: i.name, Version: i.version, Node: st.about.Node, Message: message, Time: time.Now()})
		st.server.log.Error("a proxy can't read a secret's files", "name", i.name, "version", i.version, "node", st.about.Node, "message", message)
	}
}

// readLocked notes secrets that a proxy has accepted.
func (st *stream) readLocked(f *flight) {
	for _, i := range f.items {
		delete(st.unread, i.name)
	}
}

// unread gives the refusals of secrets that a stream's proxy still wants.
func (s *Server) unread(st *stream) []Refusal {
	all := st.unreadStill()
	p := st.proxy.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, r := range all {
		if i := s.latest[p.lineage(secretKind, r.Name)]; i != nil {
			all[n].Sources = i.sources
		}
	}
	return all
}

func (st *stream) unreadStill() (all []Refusal) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for name, r := range st.unread {
		if st.subs[secretKind].covers(name) {
			all = append(all, r)
		}
	}
	return all
}
