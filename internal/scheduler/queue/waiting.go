package queue

// The queues, as upstream's metrics name them.
const (
	Active        = "active"
	Backoff       = "backoff"
	Unschedulable = "unschedulable"
	Gated         = "gated"
)

// What puts pods on a queue, beside events in the cluster.
const (
	PodAdd                 = "PodAdd"
	ScheduleAttemptFailure = "ScheduleAttemptFailure"
	BackoffComplete        = "BackoffComplete"
	PodUpdate              = "PodUpdate"
	ClusterEvent           = "ClusterEvent"
)

// Waiting says how many pods wait, and where.
type Waiting struct {
	Queues   map[string]int
	Rejected map[Rejection]int
}

// Rejection is a plugin that pods of a profile are rejected by.
type Rejection struct{ Plugin, Profile string }

// Waiting counts the pods.
func (q *Queue) Waiting() Waiting {
	w := Waiting{Queues: map[string]int{Active: q.active.Len(), Backoff: len(q.backoff) + len(q.failed), Unschedulable: len(q.held)}, Rejected: map[Rejection]int{}}
	for at, ward := range q.stuck {
		n := ward.pods.Len()
		if at.gate != "" {
			w.Queues[Gated] += n
		} else {
			w.Queues[Unschedulable] += n
		}
		for _, plugin := range ward.plugins {
			w.Rejected[Rejection{plugin, ward.pods.entries[0].Spec.SchedulerName}] += n
		}
	}
	return w
}

// moved tells who wants to know that a pod was put on a queue.
func (q *Queue) moved(to, event string) {
	if q.Moved != nil {
		q.Moved(to, event)
	}
}
