package class

import (
	"fmt"
	"slices"

	"skiff/internal/scheduler/framework"
)

// restrict leaves only nodes of these names, because the last of plugins says
// so. It returns why none is left.
func (k *Class) restrict(plugins, names []string) *framework.Status {
	only := make(map[string]bool, len(names))
	for _, name := range names {
		if k.only == nil || k.only[name] {
			only[name] = true
		}
	}
	k.only = only
	sorted := slices.Sorted(slices.Values(plugins))
	last := plugins[len(plugins)-1]
	if len(only) == 0 {
		reason := "node(s) didn't satisfy plugin(s) " + fmt.Sprint(sorted) + " simultaneously"
		if len(plugins) == 1 {
			reason = "node(s) didn't satisfy plugin " + last
		}
		return framework.NewStatus(framework.Unresolvable, last, reason)
	}
	k.excluded = framework.NewStatus(framework.Unresolvable, last, "node(s) didn't satisfy plugin(s) "+fmt.Sprint(sorted))
	return nil
}
