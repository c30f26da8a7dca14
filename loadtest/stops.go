package loadtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/machinenativeops/weir/internal/durable"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// StopsFile is what [Open] keeps in its folder: the load tests that have stopped, as JSON.
const StopsFile = "stopped-load-tests.json"

// Stops are the load tests that have stopped. They are for one goroutine.
type Stops struct {
	log  *slog.Logger
	file string // "": nothing outlives the process
	all  map[mesh.LoadTestID]Stop
	kept bool // as they are, in the file
}

// Open gives the load tests that have stopped as they are kept in the folder dir, where changes are kept too; "" is none.
// A file that can't be read is reported and set aside: the load tests in it run again.
func Open(dir string, log *slog.Logger) (*Stops, error) {
	s := &Stops{log: log, all: make(map[mesh.LoadTestID]Stop), kept: true}
	if dir == "" {
		return s, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keep stopped load tests: %w", err)
	}
	s.file = filepath.Join(dir, StopsFile)
	data, err := os.ReadFile(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = s.restore(data)
	}
	if err != nil {
		aside := s.file + ".damaged"
		log.Error("which load tests have stopped can't be read, so that they run again; the file is set aside", "file", s.file, "aside", aside, "error", err)
		if err := os.Rename(s.file, aside); err != nil {
			log.Error("set the stopped load tests aside", "error", err)
		}
	}
	return s, nil
}

// written is a stop in the file.
type written struct {
	Route string    `json:"route"`
	Rule  string    `json:"rule"`
	Is    uint64    `json:"is,string"` // hash of the rule
	At    time.Time `json:"at"`
	Why   string    `json:"why"`
}

func (s *Stops) restore(data []byte) error {
	var all []written
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	for _, w := range all {
		id := mesh.LoadTestID{Route: policy.ParseRef(w.Route, ""), Written: w.Is}
		s.all[id] = Stop{ID: id, Rule: w.Rule, At: w.At, Why: w.Why}
	}
	return nil
}

// Add notes what has stopped.
func (s *Stops) Add(stops []Stop) {
	for _, one := range stops {
		s.all[one.ID] = one
		s.kept = false
	}
}

// Forget lets go of load tests whose rules have been edited, or are gone from their Routes. A Route that is gone as a whole
// may come back as it was.
func (s *Stops) Forget(set *policy.Set) {
	for id := range s.all {
		if has, route := mesh.HasLoadTest(set, id); route && !has {
			delete(s.all, id)
			s.kept = false
		}
	}
}

// IDs gives which have stopped.
func (s *Stops) IDs() map[mesh.LoadTestID]bool {
	ids := make(map[mesh.LoadTestID]bool, len(s.all))
	for id := range s.all {
		ids[id] = true
	}
	return ids
}

// Of gives how a load test stopped, if it has.
func (s *Stops) Of(id mesh.LoadTestID) (stop Stop, stopped bool) {
	stop, stopped = s.all[id]
	return stop, stopped
}

// Keep writes the file if anything has changed. What goes wrong is told, and tried again at the next call.
func (s *Stops) Keep() {
	if s.kept {
		return
	}
	if s.file != "" {
		if err := durable.Write(s.file, s.format()); err != nil {
			s.log.Error("stopped load tests are not kept: they would run again after a restart", "file", s.file, "error", err)
			return
		}
	}
	s.kept = true
}

func (s *Stops) format() []byte {
	all := make([]written, 0, len(s.all))
	for _, one := range slices.SortedFunc(maps.Values(s.all), compareStops) {
		all = append(all, written{Route: one.ID.Route.String(), Rule: one.Rule, Is: one.ID.Written, At: one.At, Why: one.Why})
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		panic("loadtest: plain values can't be written: " + err.Error())
	}
	return append(data, '\n')
}

func compareStops(a, b Stop) int {
	if n := a.At.Compare(b.At); n != 0 {
		return n
	}
	return strings.Compare(a.ID.Route.String()+" "+a.Rule, b.ID.Route.String()+" "+b.Rule)
}
