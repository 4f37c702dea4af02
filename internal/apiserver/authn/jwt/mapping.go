package jwt

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	celconfig "k8s.io/apiserver/pkg/apis/cel"

	"skiff/internal/apiserver/cel"
	"skiff/internal/identity"
)

// mapping makes users of claims.
type mapping struct {
	username, groups, uid source
	extra                 []extraValue
	claimRules            []claimRule
	userRules             []condition
}

// source is where a value comes from: a claim, whose values get the prefix, or
// an expression over all claims. The zero value gives nothing.
type source struct {
	claim, prefix string
	expression    *cel.Program
}

type extraValue struct {
	key        string
	expression *cel.Program
}

// claimRule demands a value of a claim, or that a condition holds.
type claimRule struct {
	claim, value string
	condition    *condition
}

type condition struct {
	expression *cel.Program
	message    string
}

// user applies the rules in upstream's order: mapping, then validation of the
// claims, then validation of the user.
func (m *mapping) user(ctx context.Context, claims map[string]any) (*identity.User, error) {
	budget := cel.NewBudget(celconfig.RuntimeCELCostBudget)
	vars := map[string]any{"claims": claims}
	u := &identity.User{}
	var err error
	if u.Name, err = m.username.one(ctx, vars, claims, budget); err != nil {
		return nil, fmt.Errorf("username: %w", err)
	}
	if u.Name == "" {
		return nil, errors.New("username: it is empty")
	}
	if m.username.claim == "email" {
		// Whoever may set an address must not become its owner by that.
		if verified, ok := claims["email_verified"]; ok && verified != true {
			return nil, errors.New("email not verified")
		}
	}
	if u.Groups, err = m.groups.many(ctx, vars, claims, budget); err != nil {
		return nil, fmt.Errorf("groups: %w", err)
	}
	if u.UID, err = m.uid.one(ctx, vars, claims, budget); err != nil {
		return nil, fmt.Errorf("uid: %w", err)
	}
	for _, e := range m.extra {
		value, err := e.expression.Eval(ctx, vars, budget)
		if err != nil {
			return nil, fmt.Errorf("extra %s: %w", e.key, err)
		}
		values, err := stringsOf(value)
		if err != nil {
			return nil, fmt.Errorf("extra %s: %w", e.key, err)
		}
		if len(values) > 0 {
			if u.Extra == nil {
				u.Extra = map[string][]string{}
			}
			u.Extra[e.key] = values
		}
	}
	for _, r := range m.claimRules {
		if r.condition == nil {
			got, ok := claims[r.claim].(string)
			if !ok || got != r.value {
				return nil, fmt.Errorf("required claim %s has value %v, it must be %q", r.claim, claims[r.claim], r.value)
			}
			continue
		}
		if err := r.condition.check(ctx, vars, budget); err != nil {
			return nil, fmt.Errorf("error evaluating claim validation expression: %w", err)
		}
	}
	if len(m.userRules) > 0 {
		vars := map[string]any{"user": map[string]any{
			"username": u.Name, "uid": u.UID, "groups": orEmpty(u.Groups), "extra": u.Extra,
		}}
		for _, r := range m.userRules {
			if err := r.check(ctx, vars, budget); err != nil {
				return nil, fmt.Errorf("error evaluating user info validation rule: %w", err)
			}
		}
	}
	return u, nil
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func (c *condition) check(ctx context.Context, vars map[string]any, budget *cel.Budget) error {
	value, err := c.expression.Eval(ctx, vars, budget)
	if err != nil {
		return err
	}
	if value != types.True {
		if c.message != "" {
			return fmt.Errorf("validation expression '%s' failed: %s", c.expression.Source, c.message)
		}
		return fmt.Errorf("validation expression '%s' failed", c.expression.Source)
	}
	return nil
}

// one returns a single string.
func (s *source) one(ctx context.Context, vars, claims map[string]any, budget *cel.Budget) (string, error) {
	switch {
	case s.expression != nil:
		value, err := s.expression.Eval(ctx, vars, budget)
		if err != nil {
			return "", err
		}
		text, ok := value.Value().(string)
		if !ok {
			return "", fmt.Errorf("the expression gives a %T, it must give a string", value.Value())
		}
		return text, nil
	case s.claim != "":
		value, ok := claims[s.claim]
		if !ok {
			return "", fmt.Errorf("claim not present: %s", s.claim)
		}
		text, ok := value.(string)
		if !ok {
			return "", fmt.Errorf("the claim %s is a %T, it must be a string", s.claim, value)
		}
		return s.prefix + text, nil
	}
	return "", nil
}

// many returns a list of strings; one string is a list of one. A claim that is
// not there gives none.
func (s *source) many(ctx context.Context, vars, claims map[string]any, budget *cel.Budget) ([]string, error) {
	switch {
	case s.expression != nil:
		value, err := s.expression.Eval(ctx, vars, budget)
		if err != nil {
			return nil, err
		}
		return stringsOf(value)
	case s.claim != "":
		value, ok := claims[s.claim]
		if !ok {
			return nil, nil
		}
		list, ok := value.([]any)
		if !ok {
			list = []any{value}
		}
		var out []string
		for _, item := range list {
			text, ok := item.(string)
			if !ok {
				return nil, fmt.Errorf("the claim %s holds a %T, it must hold strings", s.claim, item)
			}
			out = append(out, s.prefix+text)
		}
		return out, nil
	}
	return nil, nil
}

// stringsOf reads a string, a list of strings or null; empty strings are left
// out.
func stringsOf(v ref.Val) ([]string, error) {
	switch value := v.Value().(type) {
	case string:
		if value == "" {
			return nil, nil
		}
		return []string{value}, nil
	case nil:
		return nil, nil
	}
	if v == types.NullValue {
		return nil, nil
	}
	native, err := v.ConvertToNative(reflect.TypeFor[[]string]())
	if err != nil {
		return nil, fmt.Errorf("the expression must give a string or a list of strings: %w", err)
	}
	var out []string
	for _, s := range native.([]string) {
		if s != "" {
			out = append(out, s)
		}
	}
	return out, nil
}
