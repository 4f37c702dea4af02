package controllertest

import (
	"context"
	"fmt"
	"hash/fnv"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Kubelet plays the scheduler and the kubelets until the test ends. It gives
// every pod a node, reports it as running and ready, and lets deleted ones go.
// What becomes of a pod is up to the image of its first container:
//
//	exit:<code>  it ends at once
//	exit:1=3;*=  so does it, with a code for each completion index; without a
//	             code it runs
//	broken       it runs and is never ready
//	hold         it stays as it is; deleted, it goes on terminating
func (c *Cluster) Kubelet() {
	c.t.Helper()
	c.play(&kubelet{client: c.Client, schedules: true})
}

// KubeletWithoutScheduler plays the kubelets alone, for clusters without nodes:
// pods run where they are.
func (c *Cluster) KubeletWithoutScheduler() {
	c.t.Helper()
	c.play(&kubelet{client: c.Client})
}

func (c *Cluster) play(k *kubelet) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w, err := c.Client.Watch(ctx, &corev1.PodList{})
	if err != nil {
		cancel()
		c.t.Fatal(err)
	}
	stopped := make(chan struct{})
	c.t.Cleanup(func() { cancel(); <-stopped })
	work := make([]chan *corev1.Pod, kubelets)
	var running sync.WaitGroup
	for i := range work {
		work[i] = make(chan *corev1.Pod, 1000)
		running.Go(func() {
			for p := range work[i] {
				if err := k.see(ctx, p); err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
					c.t.Errorf("kubelet: %v", err)
				}
			}
		})
	}
	go func() {
		defer close(stopped)
		defer w.Stop()
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*corev1.Pod); ok && e.Type != watch.Deleted {
				h := fnv.New32a()
				h.Write([]byte(p.UID))
				work[h.Sum32()%kubelets] <- p.DeepCopy()
			}
		}
		for i := range work {
			close(work[i])
		}
		running.Wait()
	}()
}

// kubelets work at the same time, each on pods of its own.
const kubelets = 32

type kubelet struct {
	client    client.Client
	schedules bool
	pods      atomic.Int32
}

func (k *kubelet) see(ctx context.Context, p *corev1.Pod) error {
	image := p.Spec.Containers[0].Image
	switch {
	case image == "hold":
	case p.DeletionTimestamp != nil:
		return k.client.Delete(ctx, p, client.GracePeriodSeconds(0), client.Preconditions{UID: &p.UID})
	case p.Spec.NodeName == "" && k.schedules:
		return k.client.SubResource("binding").Create(ctx, p, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: nodeOf(p, int(k.pods.Add(1)))},
		})
	case p.Status.Phase == corev1.PodPending:
		k.run(p, image)
		return k.client.Status().Update(ctx, p)
	}
	return nil
}

func (k *kubelet) run(p *corev1.Pod, image string) {
	now := metav1.Now()
	status := corev1.ContainerStatus{Name: p.Spec.Containers[0].Name}
	ready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: now}
	p.Status.StartTime = &now
	if code, ends := exitCode(p, image); ends {
		p.Status.Phase = corev1.PodSucceeded
		if code != 0 {
			p.Status.Phase = corev1.PodFailed
		}
		status.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: now}
	} else {
		p.Status.Phase = corev1.PodRunning
		n := k.pods.Add(1)
		p.Status.PodIP = netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}).String()
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
		status.State.Running = &corev1.ContainerStateRunning{StartedAt: now}
		if image != "broken" {
			status.Ready, ready.Status = true, corev1.ConditionTrue
		}
	}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{status}
	p.Status.Conditions = append(p.Status.Conditions, ready)
}

// exitCode is the code with which the pod ends, if it does.
func exitCode(p *corev1.Pod, image string) (code int32, ends bool) {
	script, ok := strings.CutPrefix(image, "exit:")
	if !ok {
		return 0, false
	}
	for part := range strings.SplitSeq(script, ";") {
		index, text, perIndex := strings.Cut(part, "=")
		switch {
		case !perIndex:
			text = index
		case index != "*" && index != p.Labels[batchv1.JobCompletionIndexAnnotation]:
			continue
		}
		n, err := strconv.Atoi(text)
		return int32(n), err == nil
	}
	return 0, false
}

// nodeOf is the node that the pod asks for, or one of those that
// Nodes makes.
func nodeOf(p *corev1.Pod, n int) string {
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			for _, f := range term.MatchFields {
				if f.Key == "metadata.name" && len(f.Values) == 1 {
					return f.Values[0]
				}
			}
		}
	}
	return nodeName(n % nodes)
}

// nodes is how many nodes pods are spread over.
const nodes = 10

func nodeName(i int) string { return fmt.Sprintf("node-%d", i) }

// Nodes makes the nodes that Kubelet spreads pods over, which the pods do
// without unless something looks for them.
func (c *Cluster) Nodes() {
	c.t.Helper()
	for i := range nodes {
		c.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}})
	}
}

// Fail reports a pod as failed, as the kubelet does after an eviction.
func (c *Cluster) Fail(p *corev1.Pod, conditions ...corev1.PodCondition) {
	c.t.Helper()
	p.Status.Phase = corev1.PodFailed
	p.Status.Conditions = conditions
	if err := c.Client.Status().Update(context.Background(), p); err != nil {
		c.t.Fatal(err)
	}
}
