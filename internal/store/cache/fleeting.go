package cache

import (
	"sync"
	"weak"
)

// fleeting holds what the entries of a collection decode to only until the
// memory is wanted back.
type fleeting struct {
	mu      sync.Mutex
	objects map[*Entry]weak.Pointer[content]
	// prune is the size at which those that are gone are looked for.
	prune int
}

// LetGo makes the collection keep stored values alone: objects and encodings
// are made again when they are asked for after a while. It is for large
// objects that are read rarely, and must be called before there are any.
func (c *Collection) LetGo() {
	c.keepStored = true
	c.fleeting = &fleeting{objects: map[*Entry]weak.Pointer[content]{}}
}

func (f *fleeting) load(e *Entry) *content {
	f.mu.Lock()
	d := f.objects[e].Value()
	f.mu.Unlock()
	if d != nil {
		return d
	}
	d = &content{}
	d.object, d.err = e.decode(e.content.Load().value)
	f.keep(e, d)
	return d
}

func (f *fleeting) keep(e *Entry, d *content) {
	const least = 64
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.objects) >= f.prune {
		for e, w := range f.objects {
			if w.Value() == nil {
				delete(f.objects, e)
			}
		}
		f.prune = max(least, 2*len(f.objects))
	}
	f.objects[e] = weak.Make(d)
}
