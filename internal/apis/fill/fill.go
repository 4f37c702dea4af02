// Package fill sets fields that an object's author left out. Filling twice
// changes nothing.
package fill

// Pointer points *p to a copy of v if it points nowhere.
func Pointer[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

// Value sets *p to v if it is zero.
func Value[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}
