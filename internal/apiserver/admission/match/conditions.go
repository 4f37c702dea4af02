package match

import (
	"context"
	"errors"
	"fmt"
	"strings"

	celgo "github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"skiff/internal/apiserver/cel"
)

// Conditions are compiled match conditions.
type Conditions []condition

type condition struct {
	program *cel.Program
	err     error
}

// Compile compiles conditions. What does not compile fails when it is
// evaluated: it was stored by another server.
func Compile(conditions []admissionregistrationv1.MatchCondition, compile func(source string, stored bool, returns ...*celgo.Type) (*cel.Program, *apiservercel.Error)) Conditions {
	out := make(Conditions, len(conditions))
	for i := range conditions {
		p, err := compile(strings.TrimSpace(conditions[i].Expression), true, celgo.BoolType)
		out[i].program = p
		if err != nil {
			out[i].err = fmt.Errorf("compilation error: %w", err)
		}
	}
	return out
}

// Match reports whether all conditions are true. If one is false, it is not an
// error that others fail.
func (c Conditions) Match(ctx context.Context, vars *cel.Activation) (bool, error) {
	var errs []error
	budget := cel.NewBudget(celconfig.RuntimeCELCostBudgetMatchConditions)
	for i := range c {
		if c[i].err != nil {
			errs = append(errs, c[i].err)
			continue
		}
		v, err := c[i].program.Eval(ctx, vars, budget)
		switch {
		case errors.Is(err, apiservercel.ErrOutOfBudget):
			return false, err
		case err != nil:
			errs = append(errs, err)
		case v == types.False:
			return false, nil
		}
	}
	return len(errs) == 0, utilerrors.NewAggregate(errs)
}
