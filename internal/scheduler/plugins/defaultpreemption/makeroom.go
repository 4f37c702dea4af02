package defaultpreemption

import (
	"context"
	"errors"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"skiff/internal/scheduler/framework"
)

// makeRoom deletes the victims, all at a time. Pods that were nominated to the
// node and go after pod may find better ones.
func (p *Plugin) makeRoom(ctx context.Context, pod *corev1.Pod, n *framework.Nomination) error {
	errs := make([]error, len(n.Victims)+len(n.Displaced))
	var writing sync.WaitGroup
	for i, v := range n.Victims {
		writing.Go(func() { errs[i] = p.Evict(ctx, pod, v.Pod, n.Node) })
	}
	for i, o := range n.Displaced {
		writing.Go(func() { errs[len(n.Victims)+i] = p.Displace(ctx, o.Pod) })
	}
	writing.Wait()
	return errors.Join(errs...)
}
