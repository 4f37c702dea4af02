// Package extender asks other programs over HTTP which nodes will do for a pod,
// which are better, and to bind it, as upstream's scheduler extenders.
package extender

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	configv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"

	"skiff/internal/scheduler/framework"
)

// Extender is one such program.
type Extender struct {
	c       configv1.Extender
	client  *http.Client
	managed map[string]bool
}

// New makes the client of an extender.
func New(c configv1.Extender) (*Extender, error) {
	transport := &rest.Config{}
	if t := c.TLSConfig; t != nil {
		transport.TLSClientConfig = rest.TLSClientConfig{
			Insecure: t.Insecure, ServerName: t.ServerName, CertFile: t.CertFile, KeyFile: t.KeyFile, CAFile: t.CAFile,
			CertData: t.CertData, KeyData: t.KeyData, CAData: t.CAData,
		}
	}
	if c.EnableHTTPS && transport.CAFile == "" && len(transport.CAData) == 0 {
		transport.Insecure = true
	}
	rt, err := rest.TransportFor(transport)
	if err != nil {
		return nil, fmt.Errorf("extender %s: %w", c.URLPrefix, err)
	}
	e := &Extender{c: c, client: &http.Client{Transport: rt, Timeout: c.HTTPTimeout.Duration}, managed: map[string]bool{}}
	for _, r := range c.ManagedResources {
		e.managed[r.Name] = true
	}
	return e, nil
}

// Name returns where the extender is.
func (e *Extender) Name() string { return e.c.URLPrefix }

// Ignorable reports whether pods are scheduled without the extender if it does
// not answer.
func (e *Extender) Ignorable() bool { return e.c.Ignorable }

// Filters reports whether the extender says which nodes will do.
func (e *Extender) Filters() bool { return e.c.FilterVerb != "" }

// Prioritizes reports whether the extender says which nodes are better.
func (e *Extender) Prioritizes() bool { return e.c.PrioritizeVerb != "" }

// Preempts reports whether the extender is asked before room is made for a pod.
func (e *Extender) Preempts() bool { return e.c.PreemptVerb != "" }

// Binds reports whether the extender binds pods.
func (e *Extender) Binds() bool { return e.c.BindVerb != "" }

// Interested reports whether the extender wants to be asked about the pod.
func (e *Extender) Interested(pod *corev1.Pod) bool {
	if len(e.managed) == 0 {
		return true
	}
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			if e.manages(containers[i].Resources.Requests) || e.manages(containers[i].Resources.Limits) {
				return true
			}
		}
	}
	return false
}

func (e *Extender) manages(list corev1.ResourceList) bool {
	for name := range list {
		if e.managed[string(name)] {
			return true
		}
	}
	return false
}

func (e *Extender) args(pod *corev1.Pod, nodes []*corev1.Node) *extenderv1.ExtenderArgs {
	args := &extenderv1.ExtenderArgs{Pod: pod}
	if e.c.NodeCacheCapable {
		names := make([]string, len(nodes))
		for i, n := range nodes {
			names[i] = n.Name
		}
		args.NodeNames = &names
		return args
	}
	args.Nodes = &corev1.NodeList{Items: make([]corev1.Node, len(nodes))}
	for i, n := range nodes {
		args.Nodes.Items[i] = *n
	}
	return args
}

// Filter returns the nodes that will do, and why the others will not.
func (e *Extender) Filter(ctx context.Context, pod *corev1.Pod, nodes []*corev1.Node) ([]*corev1.Node, map[string]*framework.Status, error) {
	result := &extenderv1.ExtenderFilterResult{}
	if err := e.post(ctx, e.c.FilterVerb, e.args(pod, nodes), result); err != nil {
		return nil, nil, err
	}
	if result.Error != "" {
		return nil, nil, errors.New(result.Error)
	}
	byName := make(map[string]*corev1.Node, len(nodes))
	for _, n := range nodes {
		byName[n.Name] = n
	}
	var names []string
	switch {
	case e.c.NodeCacheCapable && result.NodeNames != nil:
		names = *result.NodeNames
	case result.Nodes != nil:
		for i := range result.Nodes.Items {
			names = append(names, result.Nodes.Items[i].Name)
		}
	}
	kept := make([]*corev1.Node, 0, len(names))
	for _, name := range names {
		n := byName[name]
		if n == nil {
			return nil, nil, fmt.Errorf("extender %q claims a filtered node %q which is not found in the input node list", e.Name(), name)
		}
		kept = append(kept, n)
	}
	failed := make(map[string]*framework.Status)
	for name, why := range result.FailedNodes {
		failed[name] = framework.NewStatus(framework.Unschedulable, Plugin, why)
	}
	for name, why := range result.FailedAndUnresolvableNodes {
		failed[name] = framework.NewStatus(framework.Unresolvable, Plugin, why)
	}
	return kept, failed, nil
}

// Plugin is what extenders are called where plugins have a name.
const Plugin = "Extender"

// Prioritize returns what the extender adds to the nodes' scores.
func (e *Extender) Prioritize(ctx context.Context, pod *corev1.Pod, nodes []*corev1.Node) (map[string]int64, error) {
	var result extenderv1.HostPriorityList
	if err := e.post(ctx, e.c.PrioritizeVerb, e.args(pod, nodes), &result); err != nil {
		return nil, err
	}
	scores := make(map[string]int64, len(result))
	for _, r := range result {
		scores[r.Host] = r.Score * e.c.Weight * (framework.MaxScore / extenderv1.MaxExtenderPriority)
	}
	return scores, nil
}

// Preempt returns on which nodes room may be made for the pod, and which pods
// have to go.
func (e *Extender) Preempt(ctx context.Context, pod *corev1.Pod, victims map[string]framework.Victims) (map[string]*extenderv1.MetaVictims, error) {
	args := &extenderv1.ExtenderPreemptionArgs{Pod: pod}
	if e.c.NodeCacheCapable {
		args.NodeNameToMetaVictims = make(map[string]*extenderv1.MetaVictims, len(victims))
	} else {
		args.NodeNameToVictims = make(map[string]*extenderv1.Victims, len(victims))
	}
	for node, v := range victims {
		if e.c.NodeCacheCapable {
			meta := &extenderv1.MetaVictims{NumPDBViolations: int64(v.Violations)}
			for _, p := range v.Pods {
				meta.Pods = append(meta.Pods, &extenderv1.MetaPod{UID: string(p.UID)})
			}
			args.NodeNameToMetaVictims[node] = meta
			continue
		}
		whole := &extenderv1.Victims{NumPDBViolations: int64(v.Violations)}
		for _, p := range v.Pods {
			whole.Pods = append(whole.Pods, p.Pod)
		}
		args.NodeNameToVictims[node] = whole
	}
	result := &extenderv1.ExtenderPreemptionResult{}
	if err := e.post(ctx, e.c.PreemptVerb, args, result); err != nil {
		return nil, err
	}
	return result.NodeNameToMetaVictims, nil
}

// Bind binds the pod to the node.
func (e *Extender) Bind(ctx context.Context, pod *corev1.Pod, node string) error {
	result := &extenderv1.ExtenderBindingResult{}
	args := &extenderv1.ExtenderBindingArgs{PodName: pod.Name, PodNamespace: pod.Namespace, PodUID: pod.UID, Node: node}
	if err := e.post(ctx, e.c.BindVerb, args, result); err != nil {
		return err
	}
	if result.Error != "" {
		return errors.New(result.Error)
	}
	return nil
}

func (e *Extender) post(ctx context.Context, verb string, args, result any) error {
	body, err := json.Marshal(args)
	if err != nil {
		return err
	}
	url := strings.TrimRight(e.c.URLPrefix, "/") + "/" + verb
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := e.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("failed %v with extender at URL %v, code %v", verb, e.c.URLPrefix, response.StatusCode)
	}
	return json.NewDecoder(response.Body).Decode(result)
}
