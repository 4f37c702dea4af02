package framework

import (
	"fmt"
	"slices"
	"strings"
)

// Summary says, in upstream's words, that none of the nodes will do, and how
// many gave which reason.
func Summary(nodes int, failures map[*Status]int) string {
	counts := make(map[string]int)
	for why, n := range failures {
		for _, reason := range why.Reasons {
			counts[reason] += n
		}
	}
	reasons := make([]string, 0, len(counts))
	for reason, n := range counts {
		reasons = append(reasons, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(reasons)
	message := fmt.Sprintf("0/%d nodes are available:", nodes)
	if len(reasons) > 0 {
		message += " " + strings.Join(reasons, ", ") + "."
	}
	return message
}
