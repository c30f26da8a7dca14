package policy

import (
	"bytes"
	"cmp"
	"iter"
	"maps"
	"slices"

	"github.com/machinenativeops/weir/internal/parallel"
	"github.com/machinenativeops/weir/internal/sorted"
)

// readings are the documents as they were read, good or not, and by what each is found that another one concerns: so an
// edit looks at what it concerns and at no more. Immutable, once made.
type readings struct {
	files   []*parsed // in order
	byFile  *sorted.Map[string, *parsed]
	named   *sorted.Map[Key, *group]    // by name; those without one are in none
	claimed *sorted.Map[string, *group] // by what they claim
	needed  *sorted.Map[Key, *group]    // by the services that they need

	// Few, as a rule:
	sameName  map[Key]bool // of more than one
	sameClaim map[string]bool
	wrong     map[*document]bool // by themselves
	amiss     map[*document]bool // that need what was not read
	troubled  map[*parsed]bool   // files with problems
}

// group is documents that have something in common, in no order.
type group []*document

func newReadings() *readings {
	return &readings{
		byFile: sorted.NewMap[string, *parsed](cmp.Compare[string]), named: sorted.NewMap[Key, *group](Key.Compare),
		claimed: sorted.NewMap[string, *group](cmp.Compare[string]), needed: sorted.NewMap[Key, *group](Key.Compare),
	}
}

// next reads files. touched are the names of which a document has come or gone, and come the documents that have.
func (r *readings) next(files []File) (next *readings, touched map[Key]*group, come []*document) {
	all, gone, anew := r.parse(files)
	next = &readings{files: all, amiss: r.amiss, byFile: r.byFile.Edited(fileEdits(gone, anew))}
	leaves, comes := documentsOf(gone), documentsOf(anew)
	for d := range comes {
		if leaves[d] { // it stays: its file has changed elsewhere
			delete(leaves, d)
			delete(comes, d)
		}
	}
	next.wrong, next.troubled = maps.Clone(r.wrong), maps.Clone(r.troubled)
	for d := range leaves {
		delete(next.wrong, d)
	}
	for _, p := range gone {
		delete(next.troubled, p)
	}
	for d := range comes {
		if d.wrong {
			put(&next.wrong, d)
		}
		come = append(come, d)
	}
	for _, p := range anew {
		if slices.ContainsFunc(p.pieces, func(one piece) bool { return len(one.problems) > 0 }) {
			put(&next.troubled, p)
		}
	}
	parallel.Do(
		func() {
			next.named, next.sameName, touched = regroup(r.named, r.sameName, Key.Compare, leaves, comes, (*document).names)
		},
		func() {
			next.claimed, next.sameClaim, _ = regroup(r.claimed, r.sameClaim, cmp.Compare[string], leaves, comes, (*document).claimIDs)
		},
		func() {
			next.needed, _, _ = regroup(r.needed, nil, Key.Compare, leaves, comes, (*document).neededKeys)
		},
	)
	return next, touched, come
}

func put[K comparable](set *map[K]bool, key K) {
	if *set == nil {
		*set = make(map[K]bool)
	}
	(*set)[key] = true
}

func fileEdits(gone, anew []*parsed) []sorted.Edit[string, *parsed] {
	edits := make(map[string]*parsed, len(anew))
	for _, p := range gone {
		edits[p.name] = nil
	}
	for _, p := range anew {
		edits[p.name] = p
	}
	return sorted.Edits(edits, cmp.Compare[string])
}

func documentsOf(files []*parsed) map[*document]bool {
	all := make(map[*document]bool, len(files))
	for _, p := range files {
		for i := range p.pieces {
			if d := p.pieces[i].document; d != nil {
				all[d] = true
			}
		}
	}
	return all
}

// names yields the document's name, unless it has none to tell it by; it is refused then.
func (d *document) names(yield func(Key) bool) {
	if d.named() {
		yield(d.key)
	}
}

func (d *document) named() bool { return d.key.Kind != "" && d.key.Name != "" }

func (d *document) claimIDs(yield func(string) bool) {
	if !d.named() {
		return
	}
	for _, c := range d.claims {
		if !yield(c.id) {
			return
		}
	}
}

func (d *document) neededKeys(yield func(Key) bool) {
	if !d.named() {
		return
	}
	for _, r := range d.needs {
		if !yield(r.key()) {
			return
		}
	}
}

// regroup takes documents out of their groups and puts others into theirs. many are the keys of more than one document,
// and touched the groups that have changed; nil: it has nobody any more.
func regroup[K comparable](of *sorted.Map[K, *group], many map[K]bool, compare func(a, b K) int, leaves, comes map[*document]bool, keys func(*document, func(K) bool)) (
	_ *sorted.Map[K, *group], _ map[K]bool, touched map[K]*group,
) {
	touched = make(map[K]*group, len(comes))
	edit := func(key K) *group {
		g := touched[key]
		if g == nil {
			g = new(group)
			if was, ok := of.Get(key); ok {
				*g = slices.Clone(*was)
			}
			touched[key] = g
		}
		return g
	}
	each := func(d *document) iter.Seq[K] { return func(yield func(K) bool) { keys(d, yield) } }
	for d := range leaves {
		for key := range each(d) {
			g := edit(key)
			*g = slices.DeleteFunc(*g, func(o *document) bool { return o == d })
		}
	}
	for d := range comes {
		for key := range each(d) {
			g := edit(key)
			*g = append(*g, d)
		}
	}
	many = maps.Clone(many)
	for key, g := range touched {
		delete(many, key)
		switch len(*g) {
		case 0:
			touched[key] = nil
		case 1:
		default:
			put(&many, key)
		}
	}
	return of.Edited(sorted.Edits(touched, compare)), many, touched
}

// parse gives the files as they are now, those of before that are none of them, and those of them that are anew.
func (r *readings) parse(files []File) (all, gone, anew []*parsed) {
	before, ok := r.inOrder(files)
	if !ok {
		before = r.shuffled(files)
	}
	all = make([]*parsed, len(files))
	known := 0
	var changed []int
	for i, f := range files {
		p := before[i]
		if p != nil {
			known++
		}
		if p != nil && bytes.Equal(p.data, f.Data) { // at once where it is the same memory
			all[i] = p
			continue
		}
		if p != nil {
			gone = append(gone, p)
		}
		changed = append(changed, i)
	}
	if known < len(r.files) {
		gone = append(gone, missing(r.files, before)...)
	}
	todo, was := make([]File, len(changed)), make([]*parsed, len(changed))
	for n, i := range changed {
		todo[n], was[n] = files[i], before[i]
	}
	anew = parseFiles(todo, was)
	for n, i := range changed {
		all[i] = anew[n]
	}
	return all, gone, anew
}

// inOrder gives what each file was before, where what there was before has come in the same order.
func (r *readings) inOrder(files []File) (before []*parsed, ok bool) {
	before, rest := make([]*parsed, len(files)), r.files
	for i, f := range files {
		switch {
		case len(rest) > 0 && rest[0].name == f.Name:
			before[i], rest = rest[0], rest[1:]
		case len(rest) > 1 && rest[1].name == f.Name:
			before[i], rest = rest[1], rest[2:]
		default:
			if _, there := r.byFile.Get(f.Name); there {
				return nil, false
			}
		}
	}
	return before, true
}

func (r *readings) shuffled(files []File) []*parsed {
	byName := make(map[string]*parsed, len(r.files))
	for _, p := range r.files {
		byName[p.name] = p
	}
	before := make([]*parsed, len(files))
	for i, f := range files {
		before[i] = byName[f.Name]
		delete(byName, f.Name) // a document is in one place
	}
	return before
}

func missing(all, of []*parsed) (gone []*parsed) {
	there := make(map[*parsed]bool, len(of))
	for _, p := range of {
		there[p] = true
	}
	for _, p := range all {
		if !there[p] {
			gone = append(gone, p)
		}
	}
	return gone
}

// place says where each of some documents is among all that were read.
func (r *readings) place(documents []*document) map[*document]int {
	of, at := make(map[string]bool, len(documents)), make(map[*document]int, len(documents))
	for _, d := range documents {
		of[d.origin.File] = true
	}
	for i, p := range r.files {
		if !of[p.name] {
			continue
		}
		for j := range p.pieces {
			if d := p.pieces[j].document; d != nil {
				at[d] = i<<32 + j
			}
		}
	}
	return at
}

// inPlace sorts documents as they were read.
func (r *readings) inPlace(documents []*document) []*document {
	if len(documents) > 1 {
		at := r.place(documents)
		slices.SortFunc(documents, func(a, b *document) int { return cmp.Compare(at[a], at[b]) })
	}
	return documents
}
