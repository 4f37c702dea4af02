package class

// tree finds the largest of a table of keys. Changing a key costs O(log n),
// finding the largest nothing.
type tree struct {
	// nodes is a complete binary tree: the children of i are 2i and 2i+1, the
	// leaves start at size. Each holds the largest key below it.
	nodes []int64
	size  int
}

// none is the key of a row that cannot be chosen.
const none = -1

// reset takes in a whole table.
func (t *tree) reset(keys []int64) {
	size := 1
	for size < len(keys) {
		size *= 2
	}
	if size != t.size {
		t.size, t.nodes = size, make([]int64, 2*size)
	}
	copy(t.nodes[size:], keys)
	for i := size + len(keys); i < 2*size; i++ {
		t.nodes[i] = none
	}
	for i := size - 1; i > 0; i-- {
		t.nodes[i] = max(t.nodes[2*i], t.nodes[2*i+1])
	}
}

// set changes one key.
func (t *tree) set(row int, key int64) {
	i := t.size + row
	t.nodes[i] = key
	for i /= 2; i > 0; i /= 2 {
		m := max(t.nodes[2*i], t.nodes[2*i+1])
		if t.nodes[i] == m {
			return
		}
		t.nodes[i] = m
	}
}

// best returns the row of the largest key, the first of several; ok is false
// if there is no row that can be chosen.
func (t *tree) best() (row int, ok bool) {
	if t.size == 0 || t.nodes[1] == none {
		return 0, false
	}
	i := 1
	for i < t.size {
		i *= 2
		if t.nodes[i] < t.nodes[i/2] {
			i++
		}
	}
	return i - t.size, true
}
