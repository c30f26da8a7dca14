package policy

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/machinenativeops/weir/internal/parallel"
	"github.com/machinenativeops/weir/internal/sorted"
)

// readings are the documents as they were read, good or not, and by what each is found that another one concerns: so an
// edit looks at what it concerns and at no more. Immutable, once made.
type readings struct {
	files   []*parsed // in order
	byFile  *sorted.Map[string, *parsed]
	named   *sorted.Map[Key, *group]   // by name; those without one are in none
	claimed *sorted.Map[claim, *group] // by what they claim
	needed  *sorted.Map[Key, *group]   // by the services that they need

	// Few, as a rule:
	sameName  map[Key]bool // of more than one
	sameClaim map[claim]bool
	wrong     map[*document]bool // by themselves
	amiss     map[*document]bool // that need what was not read
	troubled  map[*parsed]bool   // files with problems
}

// group is documents that have something in common, in no order.
type group []*document

func newReadings() *readings {
	return &readings{
		byFile: sorted.NewMap[string, *parsed](cmp.Compare[string]), named: sorted.NewMap[Key, *group](Key.Compare),
		claimed: sorted.NewMap[claim, *group](compareClaims), needed: sorted.NewMap[Key, *group](Key.Compare),
	}
}

// next reads files. touched are the names of which a document has come or gone, and come the documents that have.
func (r *readings) next(files []File) (next *readings, touched []sorted.Edit[Key, *group], come []*document) {
	all, gone, anew := r.parse(files)
	next = &readings{files: all, amiss: r.amiss, byFile: r.byFile.Edited(fileEdits(gone, anew))}
	leave, come := changes(gone, anew)
	next.wrong, next.troubled = maps.Clone(r.wrong), maps.Clone(r.troubled)
	for _, d := range leave {
		delete(next.wrong, d)
	}
	for _, p := range gone {
		delete(next.troubled, p)
	}
	for _, d := range come {
		if d.wrong {
			put(&next.wrong, d)
		}
	}
	for _, p := range anew {
		if slices.ContainsFunc(p.pieces, func(one piece) bool { return len(one.problems) > 0 }) {
			put(&next.troubled, p)
		}
	}
	parallel.Do(
		func() {
			next.named, next.sameName, touched = regroup(r.named, r.sameName, Key.Compare, leave, come, (*document).names)
		},
		func() {
			next.claimed, next.sameClaim, _ = regroup(r.claimed, r.sameClaim, compareClaims, leave, come, (*document).eachClaim)
		},
		func() {
			next.needed, _, _ = regroup(r.needed, nil, Key.Compare, leave, come, (*document).neededKeys)
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
	edits := make([]sorted.Edit[string, *parsed], 0, len(gone)+len(anew))
	for _, p := range gone {
		edits = append(edits, sorted.Edit[string, *parsed]{Key: p.name, Gone: true})
	}
	for _, p := range anew {
		edits = append(edits, sorted.Edit[string, *parsed]{Key: p.name, Value: p})
	}
	return sorted.Merged(edits, strings.Compare)
}

// changes gives the documents that leave with files and those that come with others; what is in both stays.
func changes(gone, anew []*parsed) (leave, come []*document) {
	leaves := make(map[*document]bool)
	for _, p := range gone {
		for d := range p.documents {
			leaves[d] = true
		}
	}
	for _, p := range anew {
		for d := range p.documents {
			if leaves[d] {
				delete(leaves, d)
			} else {
				come = append(come, d)
			}
		}
	}
	return slices.Collect(maps.Keys(leaves)), come
}

func (p *parsed) documents(yield func(*document) bool) {
	for i := range p.pieces {
		if d := p.pieces[i].document; d != nil && !yield(d) {
			return
		}
	}
}

// names yields the document's name, unless it has none to tell it by; it is refused then.
func (d *document) names(yield func(Key) bool) {
	if d.named() {
		yield(d.key)
	}
}

func (d *document) named() bool { return d.key.Kind != "" && d.key.Name != "" }

func (d *document) eachClaim(yield func(claim) bool) {
	if !d.named() {
		return
	}
	for _, c := range d.claims {
		if !yield(c) {
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
// and touched what becomes of the groups that have changed, by key.
func regroup[K comparable](of *sorted.Map[K, *group], many map[K]bool, compare func(a, b K) int, leave, come []*document, keys func(*document, func(K) bool)) (
	_ *sorted.Map[K, *group], _ map[K]bool, touched []sorted.Edit[K, *group],
) {
	type change struct {
		key   K
		of    *document
		comes bool
	}
	all := make([]change, 0, len(leave)+len(come))
	note := func(documents []*document, comes bool) {
		for _, d := range documents {
			keys(d, func(key K) bool {
				all = append(all, change{key, d, comes})
				return true
			})
		}
	}
	note(leave, false)
	note(come, true)
	slices.SortFunc(all, func(a, b change) int { return compare(a.key, b.key) })
	many = maps.Clone(many)
	touched = make([]sorted.Edit[K, *group], 0, len(all))
	for len(all) > 0 {
		key, g := all[0].key, new(group)
		if was, ok := of.Get(key); ok {
			*g = slices.Clone(*was)
		}
		for len(all) > 0 && all[0].key == key {
			if one := all[0]; one.comes {
				*g = append(*g, one.of)
			} else {
				*g = slices.DeleteFunc(*g, func(o *document) bool { return o == one.of })
			}
			all = all[1:]
		}
		if delete(many, key); len(*g) > 1 {
			put(&many, key)
		}
		touched = append(touched, sorted.Edit[K, *group]{Key: key, Value: g, Gone: len(*g) == 0})
	}
	return of.Edited(touched), many, touched
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
