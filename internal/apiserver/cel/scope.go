package cel

import (
	"context"

	celgo "github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/lazy"
)

// Scope compiles the expressions of one policy: each may use the variables
// that were added before it. Once everything is compiled, the scope's
// activations may be made concurrently.
type Scope struct {
	admission *Admission
	params    bool
	vars      *apiservercel.DeclType
	envs      map[Declares]*Environment
	programs  []namedProgram
}

type namedProgram struct {
	name    string
	program *Program
	err     *apiservercel.Error
}

// Scope returns a scope without variables; params says whether expressions see
// params.
func (a *Admission) Scope(params bool) *Scope {
	return &Scope{
		admission: a, params: params, envs: map[Declares]*Environment{},
		vars: apiservercel.NewObjectType("kubernetes.variables", map[string]*apiservercel.DeclField{}),
	}
}

func (s *Scope) environment(d Declares) *Environment {
	d.Params = s.params
	e := s.envs[d]
	if e == nil {
		// The type's fields are added to later: the environment sees them.
		e = s.admission.Environment(d).Extend([]*apiservercel.DeclType{s.vars}, celgo.Variable(varVariables, s.vars.CelType()))
		s.envs[d] = e
	}
	return e
}

// Variable adds a variable. If it does not compile, neither do its uses
// evaluate.
func (s *Scope) Variable(name, source string, stored bool) *apiservercel.Error {
	p, err := s.environment(Declares{Authorizer: true}).Compile(source, stored, celgo.AnyType, celgo.DynType)
	s.programs = append(s.programs, namedProgram{name, p, err})
	t := apiservercel.DynType
	if p != nil {
		t = declType(p.Output)
	}
	s.vars.Fields[name] = apiservercel.NewDeclField(name, t, true, nil, nil)
	return err
}

// Compile compiles an expression of the policy.
func (s *Scope) Compile(source string, d Declares, stored bool, returns ...*celgo.Type) (*Program, *apiservercel.Error) {
	return s.environment(d).Compile(source, stored, returns...)
}

// Activate gives a the scope's variables, which are evaluated when they are
// first used; what they cost is charged to the expression that uses them.
func (s *Scope) Activate(ctx context.Context, a Activation) *Activation {
	out := &a
	v := &variables{value: lazy.NewMapValue(s.vars)}
	for _, p := range s.programs {
		v.value.Append(p.name, func(*lazy.MapValue) ref.Val { return v.evaluate(ctx, out, p) })
	}
	out.variables = v
	return out
}

// variables are the values of a scope's variables in one activation.
type variables struct {
	value *lazy.MapValue
	cost  uint64
}

func (v *variables) evaluate(ctx context.Context, a *Activation, p namedProgram) ref.Val {
	if p.err != nil {
		return types.NewErr("composited variable %q fails to compile: %v", p.name, p.err)
	}
	out, details, err := p.program.program.ContextEval(ctx, a)
	if details == nil || details.ActualCost() == nil {
		return types.NewErr("unable to calculate cost of variable %q", p.name)
	}
	v.cost += *details.ActualCost()
	if err != nil {
		return types.NewErr("composited variable %q fails to evaluate: %v", p.name, err)
	}
	return out
}

// takeCost returns what variables cost since the last call.
func (v *variables) takeCost() uint64 {
	if v == nil {
		return 0
	}
	cost := v.cost
	v.cost = 0
	return cost
}

// declType is the declaration of a type that an expression evaluates to.
func declType(t *celgo.Type) *apiservercel.DeclType {
	switch t {
	case celgo.AnyType:
		return apiservercel.AnyType
	case celgo.BoolType:
		return apiservercel.BoolType
	case celgo.BytesType:
		return apiservercel.BytesType
	case celgo.DoubleType:
		return apiservercel.DoubleType
	case celgo.DurationType:
		return apiservercel.DurationType
	case celgo.IntType:
		return apiservercel.IntType
	case celgo.NullType:
		return apiservercel.NullType
	case celgo.StringType:
		return apiservercel.StringType
	case celgo.TimestampType:
		return apiservercel.TimestampType
	case celgo.UintType:
		return apiservercel.UintType
	}
	if t.HasTrait(traits.ContainerType) && t.HasTrait(traits.IndexerType) {
		switch of := t.Parameters(); len(of) {
		case 1:
			return apiservercel.NewListType(declType(of[0]), -1)
		case 2:
			return apiservercel.NewMapType(declType(of[0]), declType(of[1]), -1)
		}
	}
	return apiservercel.DynType
}
