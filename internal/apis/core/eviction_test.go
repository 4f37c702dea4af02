package core_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// eviction is one pod, the budgets over it, and what becomes of the pod when it
// is evicted.
type eviction struct {
	phase    corev1.PodPhase // "" is Running
	unready  bool
	leaving  bool // is being deleted already
	budgets  []budget
	options  *metav1.DeleteOptions
	pinned   func(p *corev1.Pod) *metav1.Preconditions
	dryRun   []string // of the request
	nameless bool
	otherNS  bool

	code    int32  // of the answer, 201 if 0
	message string // a part of it
	cause   string
	retry   int32
	kept    bool // the pod is not deleted
	spent   bool // a disruption is taken from the (first) budget
}

type budget struct {
	spec   policyv1.PodDisruptionBudgetSpec
	status policyv1.PodDisruptionBudgetStatus
	behind bool // the controller has not seen the budget yet
}

const violates = "Cannot evict pod as it would violate the pod's disruption budget."

func testEviction(t *testing.T, c *kubernetes.Clientset, ns string) {
	allowing := func(n int32) budget {
		return covering(policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: n, DesiredHealthy: 2, CurrentHealthy: 2 + n})
	}
	short := covering(policyv1.PodDisruptionBudgetStatus{DesiredHealthy: 2, CurrentHealthy: 1})
	with := func(b budget, change func(*budget)) []budget { change(&b); return []budget{b} }
	always := func(b *budget) { b.spec.UnhealthyPodEvictionPolicy = ptr.To(policyv1.AlwaysAllow) }
	all := &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}
	current := func(p *corev1.Pod) *metav1.Preconditions {
		return &metav1.Preconditions{UID: &p.UID, ResourceVersion: &p.ResourceVersion}
	}
	oldVersion := func(*corev1.Pod) *metav1.Preconditions { return &metav1.Preconditions{ResourceVersion: ptr.To("1")} }
	otherPod := func(*corev1.Pod) *metav1.Preconditions { return &metav1.Preconditions{UID: ptr.To(types.UID("other"))} }

	cases := map[string]eviction{
		"no budget":                         {},
		"other budget":                      {budgets: with(short, func(b *budget) { b.spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "b"}} })},
		"budget of nobody":                  {budgets: with(short, func(b *budget) { b.spec.Selector = nil })},
		"budget of all":                     {budgets: with(allowing(1), func(b *budget) { b.spec.Selector = &metav1.LabelSelector{} }), spent: true},
		"allowed":                           {budgets: []budget{allowing(1)}, spent: true},
		"spent":                             {budgets: []budget{allowing(0)}, kept: true, code: 429, message: violates, cause: "The disruption budget b0 needs 2 healthy pods and has 2 currently"},
		"unknown yet":                       {budgets: with(allowing(1), func(b *budget) { b.behind = true }), kept: true, code: 429, message: violates, cause: "The disruption budget b0 is still being processed by the server.", retry: 10},
		"sync failed":                       {budgets: with(allowing(0), syncFailed), kept: true, code: 429, message: violates, cause: "The disruption budget b0 does not allow evicting pods currently because it failed sync: no scale"},
		"too many under way":                {budgets: with(allowing(1), crowded), kept: true, code: 403, message: `poddisruptionbudget.policy "b0" is forbidden: DisruptedPods map too big - too many evictions not confirmed by PDB controller`},
		"several budgets":                   {budgets: []budget{allowing(1), allowing(1)}, kept: true, code: 500, message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."},
		"several budgets, finished":         {budgets: []budget{allowing(0), allowing(0)}, phase: corev1.PodSucceeded},
		"pending":                           {budgets: []budget{short}, phase: corev1.PodPending},
		"failed":                            {budgets: []budget{short}, phase: corev1.PodFailed},
		"leaving":                           {budgets: []budget{short}, leaving: true},
		"unready, enough healthy":           {budgets: []budget{allowing(0)}, unready: true},
		"unready, too few healthy":          {budgets: []budget{short}, unready: true, kept: true, code: 429, message: violates, cause: "The disruption budget b0 needs 2 healthy pods and has 1 currently"},
		"unready, too few, always allowed":  {budgets: with(short, always), unready: true},
		"ready, too few, always allowed":    {budgets: with(short, always), kept: true, code: 429, message: violates, cause: "The disruption budget b0 needs 2 healthy pods and has 1 currently"},
		"unready, allowed, if healthy":      {budgets: with(allowing(1), func(b *budget) { b.spec.UnhealthyPodEvictionPolicy = ptr.To(policyv1.IfHealthyBudget) }), unready: true},
		"dry run of the request":            {budgets: []budget{allowing(1)}, dryRun: all.DryRun, kept: true},
		"dry run of the options":            {budgets: []budget{allowing(1)}, options: all, kept: true},
		"dry run of both":                   {budgets: []budget{allowing(1)}, dryRun: all.DryRun, options: all, kept: true},
		"dry run against the budget":        {budgets: []budget{allowing(0)}, dryRun: all.DryRun, kept: true, code: 429, message: violates, cause: "The disruption budget b0 needs 2 healthy pods and has 2 currently"},
		"dry runs that differ":              {dryRun: all.DryRun, options: &metav1.DeleteOptions{DryRun: []string{"Some"}}, kept: true, code: 500, message: "Non-matching dry-run options in request and content: [All] and [Some]"},
		"preconditions that hold":           {budgets: []budget{allowing(1)}, pinned: current, spent: true},
		"preconditions that hold, unready":  {budgets: []budget{allowing(0)}, pinned: current, unready: true},
		"preconditions that hold, finished": {phase: corev1.PodFailed, pinned: current},
		"version of before":                 {pinned: oldVersion, kept: true, code: 409, message: "the ResourceVersion in the precondition (1) does not match the ResourceVersion in record"},
		"version of before, unready":        {budgets: []budget{allowing(0)}, unready: true, pinned: oldVersion, kept: true, code: 409, message: "the ResourceVersion in the precondition (1) does not match"},
		"version of before, pending":        {phase: corev1.PodPending, pinned: oldVersion, kept: true, code: 409, message: "the ResourceVersion in the precondition (1) does not match"},
		"another pod":                       {pinned: otherPod, kept: true, code: 409, message: "the UID in the precondition (other) does not match the UID in record"},
		"another pod, pending":              {phase: corev1.PodPending, pinned: otherPod, kept: true, code: 409, message: "the UID in the precondition (other) does not match the UID in record"},
		"another pod costs one disruption":  {budgets: []budget{allowing(5)}, pinned: otherPod, kept: true, code: 409, message: "the UID in the precondition (other)", spent: true},
		"nameless":                          {nameless: true, kept: true, code: 400, message: "name in URL does not match name in Eviction object"},
		"another namespace":                 {otherNS: true, kept: true, code: 400, message: "the namespace of the provided object does not match the namespace sent on the request"},
		"unsafe deletion":                   {options: &metav1.DeleteOptions{IgnoreStoreReadErrorWithClusterBreakingPotential: ptr.To(true)}, kept: true, code: 422, message: `Eviction.policy "p" is invalid: deleteOptions.ignoreStoreReadErrorWithClusterBreakingPotential: Invalid value: true: can not be set for pod eviction, try after removing the option`},
	}
	for i, name := range slices.Sorted(maps.Keys(cases)) {
		e, ns := cases[name], fmt.Sprintf("%s-%d", ns, i)
		t.Run(name, func(t *testing.T) {
			makeNamespace(t, c, ns)
			e.run(t, c, ns)
		})
	}
	err := c.CoreV1().Pods(ns).EvictV1(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "nobody"}})
	if !apierrors.IsNotFound(err) {
		t.Errorf("evicting nobody: %v", err)
	}
	for version, want := range map[string]int{"v1": 201, "v1beta1": 201, "v2": 400} {
		must(c.CoreV1().Pods(ns).Create(t.Context(), pod(version), metav1.CreateOptions{}))(t)
		body := fmt.Sprintf(`{"apiVersion": "policy/%s", "kind": "Eviction", "metadata": {"name": %q}}`, version, version)
		var code int
		c.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name(version).SubResource("eviction").
			SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(t.Context()).StatusCode(&code)
		if code != want {
			t.Errorf("an eviction of policy/%s is answered %d, want %d", version, code, want)
		}
	}
}

// covering returns a budget over the pods of these tests.
func covering(status policyv1.PodDisruptionBudgetStatus) budget {
	return budget{spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}}, status: status}
}

func syncFailed(b *budget) {
	b.status.Conditions = []metav1.Condition{{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason, Message: "no scale", LastTransitionTime: metav1.Now(),
	}}
}

func crowded(b *budget) {
	b.status.DisruptedPods = make(map[string]metav1.Time)
	for i := range 2001 {
		b.status.DisruptedPods[fmt.Sprintf("pod-%d", i)] = metav1.Now()
	}
}

func (e *eviction) run(t *testing.T, c *kubernetes.Clientset, ns string) {
	ctx, pods, budgets := t.Context(), c.CoreV1().Pods(ns), c.PolicyV1().PodDisruptionBudgets(ns)
	p := pod("p")
	p.Finalizers = []string{"test/kept"} // what is written into the pod stays to be seen
	p = must(pods.Create(ctx, p, metav1.CreateOptions{}))(t)
	p.Status.Phase = e.phase
	if e.phase == "" {
		p.Status.Phase = corev1.PodRunning
	}
	if !e.unready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	p = must(pods.UpdateStatus(ctx, p, metav1.UpdateOptions{}))(t)
	if e.leaving {
		if err := pods.Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range e.budgets {
		e.budgets[i].create(t, c, ns, fmt.Sprintf("b%d", i))
	}

	body := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p"}, DeleteOptions: e.options}
	if e.nameless {
		body.Name = ""
	}
	if e.otherNS {
		body.Namespace = "other"
	}
	if e.pinned != nil {
		body.DeleteOptions = &metav1.DeleteOptions{Preconditions: e.pinned(p)}
	}
	err := c.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name("p").SubResource("eviction").
		VersionedParams(&metav1.CreateOptions{DryRun: e.dryRun}, metav1.ParameterCodec).MaxRetries(0).Body(body).Do(ctx).Error()
	e.checkAnswer(t, err)
	e.checkPod(t, must(pods.Get(ctx, "p", metav1.GetOptions{}))(t))
	if len(e.budgets) > 0 {
		b := must(budgets.Get(ctx, "b0", metav1.GetOptions{}))(t)
		before := e.budgets[0].status
		_, told := b.Status.DisruptedPods["p"]
		if told != e.spent || (b.Status.DisruptionsAllowed == before.DisruptionsAllowed-1) != e.spent {
			t.Errorf("the budget is %+v afterwards", b.Status)
		}
	}
}

func (e *eviction) checkAnswer(t *testing.T, err error) {
	t.Helper()
	if e.code == 0 {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	var status *apierrors.StatusError
	if !errors.As(err, &status) {
		t.Fatalf("answered %v, want %d", err, e.code)
	}
	got := status.Status()
	if got.Code != e.code || !strings.Contains(got.Message, e.message) {
		t.Errorf("answered %d %q, want %d %q", got.Code, got.Message, e.code, e.message)
	}
	if e.cause == "" {
		return
	}
	if len(got.Details.Causes) != 1 || got.Details.Causes[0].Type != policyv1.DisruptionBudgetCause || got.Details.Causes[0].Message != e.cause || got.Details.RetryAfterSeconds != e.retry {
		t.Errorf("answered with details %+v", got.Details)
	}
}

func (e *eviction) checkPod(t *testing.T, p *corev1.Pod) {
	t.Helper()
	if (p.DeletionTimestamp == nil) != e.kept && !e.leaving {
		t.Errorf("deleted at %v", p.DeletionTimestamp)
	}
	marked := false
	for _, c := range p.Status.Conditions {
		marked = marked || c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == "EvictionByEvictionAPI" && c.Message == "Eviction API: evicting"
	}
	if marked == e.kept {
		t.Errorf("conditions are %+v", p.Status.Conditions)
	}
}

func (b *budget) create(t *testing.T, c *kubernetes.Clientset, ns, name string) {
	budgets := c.PolicyV1().PodDisruptionBudgets(ns)
	spec := b.spec
	spec.MinAvailable = ptr.To(intstr.FromInt32(2))
	created := must(budgets.Create(t.Context(), &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{}))(t)
	created.Status = b.status
	created.Status.ObservedGeneration = created.Generation
	if b.behind {
		created.Status.ObservedGeneration--
	}
	must(budgets.UpdateStatus(t.Context(), created, metav1.UpdateOptions{}))(t)
}
