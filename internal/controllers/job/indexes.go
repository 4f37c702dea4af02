package job

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// indexes is a set of completion indexes, in order.
type indexes []int

// parseIndexes reads the form of status.completedIndexes, "1,3-5,7". What is
// not below limit is left out.
func parseIndexes(text string, limit int) indexes {
	var all indexes
	if text == "" {
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		from, err := strconv.Atoi(first)
		if err != nil {
			continue
		}
		to, err := strconv.Atoi(last)
		if err != nil {
			continue
		}
		for i := from; i <= min(to, limit-1); i++ {
			all = append(all, i)
		}
	}
	return all
}

// String writes the form that parseIndexes reads.
func (s indexes) String() string {
	var b strings.Builder
	for i := 0; i < len(s); {
		last := i
		for last+1 < len(s) && s[last+1] == s[last]+1 {
			last++
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		switch last - i {
		case 0:
			fmt.Fprintf(&b, "%d", s[i])
		case 1:
			fmt.Fprintf(&b, "%d,%d", s[i], s[last])
		default:
			fmt.Fprintf(&b, "%d-%d", s[i], s[last])
		}
		i = last + 1
	}
	return b.String()
}

func (s indexes) has(i int) bool {
	_, found := slices.BinarySearch(s, i)
	return found
}

func (s indexes) with(i int) indexes {
	at, found := slices.BinarySearch(s, i)
	if found {
		return s
	}
	return slices.Insert(s, at, i)
}

// indexOf returns the pod's completion index, or -1.
func indexOf(p *corev1.Pod) int {
	i, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || i < 0 {
		return -1
	}
	return i
}

// failuresAtIndex is how often pods of its index failed before the pod.
func failuresAtIndex(p *corev1.Pod) int32 {
	n, _ := strconv.ParseInt(p.Annotations[batchv1.JobIndexFailureCountAnnotation], 10, 32)
	return int32(n)
}
