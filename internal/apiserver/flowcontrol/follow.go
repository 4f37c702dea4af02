package flowcontrol

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	flowcontrolv1apply "k8s.io/client-go/applyconfigurations/flowcontrol/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/authz/follow"
	"skiff/internal/identity"
)

// fieldManager owns the conditions, as upstream's.
const fieldManager = "api-priority-and-fairness-config-consumer-v1"

// Follow makes the controller follow the FlowSchemas and
// PriorityLevelConfigurations in c, and returns when it knows those that are
// there now. Until ctx ends it says in each FlowSchema, through writer, whether
// its level exists.
func (c *Controller) Follow(ctx context.Context, informers follow.Informers, writer client.StatusClient, log *slog.Logger) error {
	schemas, err := follow.Objects(ctx, informers, &flowcontrolv1.FlowSchema{},
		func(_, s *flowcontrolv1.FlowSchema) { keep(c, c.mu.schemas, s.Name, s) },
		func(s *flowcontrolv1.FlowSchema) { drop(c, c.mu.schemas, s.Name) })
	if err != nil {
		return err
	}
	levels, err := follow.Objects(ctx, informers, &flowcontrolv1.PriorityLevelConfiguration{},
		func(_, l *flowcontrolv1.PriorityLevelConfiguration) { keep(c, c.mu.levels, l.Name, l) },
		func(l *flowcontrolv1.PriorityLevelConfiguration) { drop(c, c.mu.levels, l.Name) })
	if err != nil {
		return err
	}
	if err := follow.Wait(ctx, schemas, levels); err != nil {
		return err
	}
	c.digest()
	go func() {
		for {
			for _, s := range c.digest() {
				if err := c.writeStatus(ctx, writer, s); client.IgnoreNotFound(err) != nil && ctx.Err() == nil {
					log.Warn("a FlowSchema's condition could not be written", "flowSchema", s.Name, "error", err)
				}
			}
			select {
			case <-c.changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return nil
}

func keep[T any](c *Controller, in map[string]T, name string, obj T) {
	c.mu.Lock()
	in[name] = obj
	c.mu.Unlock()
	c.wake()
}

func drop[T any](c *Controller, in map[string]T, name string) {
	c.mu.Lock()
	delete(in, name)
	c.mu.Unlock()
	c.wake()
}

func (c *Controller) wake() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// digest makes the configuration anew and returns the FlowSchemas whose
// condition does not tell the truth.
func (c *Controller) digest() []*flowcontrolv1.FlowSchema {
	c.mu.Lock()
	defer c.mu.Unlock()
	levels := maps.Clone(c.mu.levels)
	for _, p := range mandatoryLevels() {
		if levels[p.Name] == nil {
			levels[p.Name] = p
		}
	}
	objects := maps.Clone(c.mu.schemas)
	for _, s := range mandatorySchemas() {
		if objects[s.Name] == nil || levels[objects[s.Name].Spec.PriorityLevelConfiguration.Name] == nil {
			objects[s.Name] = s
		}
	}
	var wrong []*flowcontrolv1.FlowSchema
	for _, s := range c.mu.schemas {
		if dangling(s, c.levelExists(s)) != nil {
			wrong = append(wrong, s)
		}
	}

	sum := 0.0
	for _, p := range levels {
		shares, _, _ := sharesOf(p)
		sum += float64(shares)
	}
	for name, l := range c.mu.running {
		if levels[name] == nil && l.idle() {
			delete(c.mu.running, name)
			c.metrics.forget(name)
		}
	}
	for name, p := range levels {
		l := c.mu.running[name]
		if l == nil {
			l = newLevel(name, c.clock, c.metrics.level(name), c.adjustSoon)
			c.mu.running[name] = l
		}
		b, initial := boundsOf(p, c.seats, sum)
		c.metrics.target.WithLabelValues(name).Set(float64(b.nominal))
		l.setUID(p.UID)
		l.configure(p, b, initial)
	}
	next := &config{}
	for _, s := range slices.SortedFunc(maps.Values(objects), byPrecedence) {
		if l := c.mu.running[s.Spec.PriorityLevelConfiguration.Name]; l != nil && levels[l.name] != nil {
			next.schemas = append(next.schemas, c.newSchema(s, l))
		}
	}
	c.config.Store(next)
	c.metrics.levels.Store(ptr.To(slices.Collect(maps.Values(c.mu.running))))
	return wrong
}

func (c *Controller) levelExists(s *flowcontrolv1.FlowSchema) bool {
	return c.mu.levels[s.Spec.PriorityLevelConfiguration.Name] != nil
}

// dangling returns the condition that s should have, or nil if it has it.
func dangling(s *flowcontrolv1.FlowSchema, exists bool) *flowcontrolv1.FlowSchemaCondition {
	level := s.Spec.PriorityLevelConfiguration.Name
	want := flowcontrolv1.FlowSchemaCondition{
		Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse, Reason: "Found",
		Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q and it exists", level),
	}
	if !exists {
		want.Status, want.Reason = flowcontrolv1.ConditionTrue, "NotFound"
		want.Message = fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q but there is no such object", level)
	}
	for _, have := range s.Status.Conditions {
		have.LastTransitionTime = metav1.Time{}
		if equality.Semantic.DeepEqual(have, want) {
			return nil
		}
	}
	return &want
}

func (c *Controller) writeStatus(ctx context.Context, writer client.StatusClient, s *flowcontrolv1.FlowSchema) error {
	c.mu.Lock()
	want := dangling(s, c.levelExists(s))
	c.mu.Unlock()
	if want == nil {
		return nil
	}
	condition := flowcontrolv1apply.FlowSchemaCondition().WithType(want.Type).WithStatus(want.Status).
		WithReason(want.Reason).WithMessage(want.Message).WithLastTransitionTime(metav1.NewTime(c.clock.Now()))
	status := flowcontrolv1apply.FlowSchemaStatus().WithConditions(condition)
	return writer.Status().Apply(ctx, flowcontrolv1apply.FlowSchema(s.Name).WithStatus(status), client.ForceOwnership, client.FieldOwner(fieldManager))
}

// mandatoryLevels and mandatorySchemas are in force even when nobody has stored
// them: administrators are never shut out, and every request has a level.
func mandatoryLevels() []*flowcontrolv1.PriorityLevelConfiguration {
	exempt := &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: flowcontrolv1.PriorityLevelConfigurationNameExempt}}
	exempt.Spec = flowcontrolv1.PriorityLevelConfigurationSpec{
		Type:   flowcontrolv1.PriorityLevelEnablementExempt,
		Exempt: &flowcontrolv1.ExemptPriorityLevelConfiguration{NominalConcurrencyShares: ptr.To[int32](0), LendablePercent: ptr.To[int32](0)},
	}
	rest := &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: flowcontrolv1.PriorityLevelConfigurationNameCatchAll}}
	rest.Spec = flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementLimited,
		Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			NominalConcurrencyShares: ptr.To[int32](5), LendablePercent: ptr.To[int32](0),
			LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
		},
	}
	return []*flowcontrolv1.PriorityLevelConfiguration{exempt, rest}
}

func mandatorySchemas() []*flowcontrolv1.FlowSchema {
	everything := func(name string, precedence int32, groups ...string) *flowcontrolv1.FlowSchema {
		s := &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: name}}
		s.Spec.MatchingPrecedence = precedence
		s.Spec.PriorityLevelConfiguration.Name = name
		rule := flowcontrolv1.PolicyRulesWithSubjects{
			ResourceRules: []flowcontrolv1.ResourcePolicyRule{{
				Verbs: []string{flowcontrolv1.VerbAll}, APIGroups: []string{flowcontrolv1.APIGroupAll}, Resources: []string{flowcontrolv1.ResourceAll},
				ClusterScope: true, Namespaces: []string{flowcontrolv1.NamespaceEvery},
			}},
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{flowcontrolv1.VerbAll}, NonResourceURLs: []string{flowcontrolv1.NonResourceAll}}},
		}
		for _, group := range groups {
			rule.Subjects = append(rule.Subjects, flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: group}})
		}
		s.Spec.Rules = []flowcontrolv1.PolicyRulesWithSubjects{rule}
		return s
	}
	rest := everything(flowcontrolv1.FlowSchemaNameCatchAll, 10000, identity.GroupUnauthenticated, identity.GroupAuthenticated)
	rest.Spec.DistinguisherMethod = &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType}
	return []*flowcontrolv1.FlowSchema{everything(flowcontrolv1.FlowSchemaNameExempt, 1, identity.GroupMasters), rest}
}
