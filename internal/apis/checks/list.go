package checks

import "k8s.io/apimachinery/pkg/util/validation/field"

// Items runs check on every item of a list, unless there are more than limit.
func Items[T any](items []T, limit int, path *field.Path, check func(item *T, path *field.Path) field.ErrorList) field.ErrorList {
	if len(items) > limit {
		return field.ErrorList{field.TooMany(path, len(items), limit)}
	}
	var errs field.ErrorList
	for i := range items {
		errs = append(errs, check(&items[i], path.Index(i))...)
	}
	return errs
}

// Unique refuses items of a list that have the key of an earlier one.
func Unique[T any, K comparable](items []T, path *field.Path, key func(item *T) K) field.ErrorList {
	var errs field.ErrorList
	seen := make(map[K]bool, len(items))
	for i := range items {
		k := key(&items[i])
		if seen[k] {
			errs = append(errs, field.Duplicate(path.Index(i), k))
		}
		seen[k] = true
	}
	return errs
}

// Set is Items for lists whose items must differ in their keys.
func Set[T any, K comparable](items []T, limit int, path *field.Path, key func(item *T) K, check func(item *T, path *field.Path) field.ErrorList) field.ErrorList {
	errs := Items(items, limit, path, check)
	if len(items) > limit {
		return errs
	}
	return append(errs, Unique(items, path, key)...)
}
