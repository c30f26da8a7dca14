package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// printTable writes the live table.
func printTable(out io.Writer, o observations, change string) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\trequests %d\tfailed %d\t429 %d\n", o.elapsed.Round(time.Second), o.counts.requests, o.counts.failed, o.counts.limited)
	for _, g := range slices.Sorted(maps.Keys(o.counts.byVersion)) {
		v := o.counts.byVersion[g]
		n := max(1, v["v1"]+v["v2"])
		fmt.Fprintf(w, "api, generation %s\tv1 %.1f %%\tv2 %.1f %%\tof %d\n", g, 100*float64(v["v1"])/float64(n), 100*float64(v["v2"])/float64(n), n)
	}
	for _, name := range slices.Sorted(maps.Keys(classes)) {
		s := o.classes[name]
		fmt.Fprintf(w, "spans of class %s\tin %d\tkept %d\t%.1f %%, want %.0f %%\n", name, s.in, s.kept, 100*float64(s.kept)/float64(max(1, s.in)), classes[name].percent)
	}
	fmt.Fprintf(w, "archive\t%s\n", archiveText(o.archive))
	fmt.Fprintf(w, "parts\t%s\n", parts(o.ended))
	fmt.Fprintf(w, "policy changed\t%s\n", change)
	if o.edit.took > 0 {
		fmt.Fprintf(w, "the demo's edit\t%s from saving to the first answer by it\n", o.edit.took.Round(time.Millisecond))
	}
	_ = w.Flush() // a terminal that is gone ends the demo anyway
}

func archiveText(a archived) string {
	if a.err != nil {
		return a.err.Error()
	}
	return fmt.Sprintf("objects %d; one read back holds %d spans", a.objects, a.decoded)
}

// printGuide says what there is to look at and to try.
func printGuide(out io.Writer, w *world) {
	fmt.Fprintf(out, `Weir's demo runs in %[1]s (documents in policy/, one log a process).

  Envoy      %[2]s          (Host: api.demo, main.demo, …)   admin http://%[3]s
  Weir       http://%[4]s/api/v1/status   /metrics
  S3         %[5]s           bucket traces

Three things to try:
  1. Edit the weights in %[1]s/policy/api.yaml and save; or break a line, and see that nothing happens to the requests.
  2. Kill weir: kill -9 %[6]d; Envoy carries on.  Start it again: %[7]s/weir %[8]s
  3. Ask: %[7]s/weir status --http-address %[4]s

`, w.dir, w.gateway(), w.address("admin"), w.address("http"), w.s3.Endpoint, w.pid("weir"), w.bin, strings.Join(w.weirArgs, " "))
}

func printEffects(out io.Writer, effects []effect) (all bool) {
	all = true
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, e := range effects {
		mark := "seen"
		if !e.seen {
			mark, all = "MISSING", false
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", mark, e.what, e.how)
	}
	_ = w.Flush() // as above
	return all
}
