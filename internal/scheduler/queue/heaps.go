package queue

import "skiff/internal/scheduler/framework"

// active is a heap in the order of less.
type active struct {
	entries []*entry
	less    func(a, b *framework.QueuedPod) bool
}

func (h *active) Len() int           { return len(h.entries) }
func (h *active) Less(i, j int) bool { return h.less(h.entries[i].QueuedPod, h.entries[j].QueuedPod) }
func (h *active) Swap(i, j int) {
	h.entries[i], h.entries[j] = h.entries[j], h.entries[i]
	h.entries[i].index, h.entries[j].index = i, j
}
func (h *active) Push(x any) {
	e := x.(*entry)
	e.index = len(h.entries)
	h.entries = append(h.entries, e)
}
func (h *active) Pop() any {
	last := len(h.entries) - 1
	e := h.entries[last]
	h.entries[last] = nil
	h.entries = h.entries[:last]
	return e
}

// backoff is a heap by the end of the backoff.
type backoff []*entry

func (h backoff) Len() int           { return len(h) }
func (h backoff) Less(i, j int) bool { return h[i].ready.Before(h[j].ready) }
func (h backoff) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *backoff) Push(x any) {
	e := x.(*entry)
	e.index = len(*h)
	*h = append(*h, e)
}
func (h *backoff) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}
