package host

// A roster keeps the state of each thing that a file lists line by line (disks, interfaces), by its name. Files
// keep their order from tick to tick, so a line is first compared with what stood in its place the last time: in
// the steady state finding costs one comparison of short strings, and neither hashing nor allocating.
type roster[T any] struct {
	order  []*member[T]
	byName map[string]*member[T]
	next   int    // the place of the next line
	tick   uint64 // counts the readings
}

// member is one thing of a roster.
type member[T any] struct {
	name string
	tick uint64 // the last reading that had it
	T    T
}

// begin starts a reading.
func (r *roster[T]) begin() {
	r.next = 0
	r.tick++
}

// find returns the member of the next line by its name; fresh says that it was not known.
func (r *roster[T]) find(name []byte) (m *member[T], fresh bool) {
	place := r.next
	r.next++
	if place < len(r.order) && r.order[place].name == string(name) {
		m = r.order[place]
		m.tick = r.tick
		return m, false
	}
	m, known := r.byName[string(name)]
	if !known {
		m = &member[T]{name: string(name)}
		if r.byName == nil {
			r.byName = map[string]*member[T]{}
		}
		r.byName[m.name] = m
	}
	m.tick = r.tick
	if place < len(r.order) {
		r.order[place] = m
	} else {
		r.order = append(r.order, m)
	}
	return m, !known
}

// sweep ends a reading of a whole file: whatever had no line in it is forgotten, after gone was called for it.
func (r *roster[T]) sweep(gone func(*T)) {
	clear(r.order[r.next:])
	r.order = r.order[:r.next]
	if len(r.byName) == r.next {
		return
	}
	for name, m := range r.byName {
		if m.tick != r.tick {
			gone(&m.T)
			delete(r.byName, name)
		}
	}
}

// known returns the number of members.
func (r *roster[T]) known() int { return len(r.byName) }
