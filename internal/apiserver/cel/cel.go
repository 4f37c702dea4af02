// Package cel compiles and evaluates the CEL expressions of API objects and
// configuration files, with upstream's functions, limits and messages. An
// Environment says what expressions may refer to; the variables that admission
// gives them are in this package too, because both the declarations of
// admission's resources (which must refuse expressions that do not compile) and
// the plug-ins that evaluate them need the same.
//
// Environments take milliseconds to make and are made when they are first used.
package cel

import (
	"context"
	"fmt"
	"math"
	"time"

	celgo "github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types/ref"
	"k8s.io/apimachinery/pkg/util/version"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Environment is what expressions are compiled in.
type Environment struct {
	set     *environment.EnvSet
	metrics *Metrics
}

// Base returns the environment that all others extend: the language's standard
// library and upstream's functions.
func Base() *Environment {
	return &Environment{set: environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())}
}

// Extend returns an environment with further variables and types. It panics
// when they contradict those that are there.
func (e *Environment) Extend(types []*apiservercel.DeclType, options ...celgo.EnvOption) *Environment {
	set, err := e.set.Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0), EnvOptions: options, DeclTypes: types,
	}, environment.StrictCostOpt)
	if err != nil {
		panic(fmt.Sprintf("extending a CEL environment: %v", err))
	}
	return &Environment{set, e.metrics}
}

// Program is a compiled expression. It may be evaluated concurrently.
type Program struct {
	// Source is the expression's text.
	Source string
	// Output is the type of its result.
	Output  *celgo.Type
	program celgo.Program
	metrics *Metrics
}

// Compile compiles an expression whose result must have one of the types
// returns. Stored expressions may use functions that are too new for new ones:
// they were accepted by a newer server before a roll-back.
func (e *Environment) Compile(source string, stored bool, returns ...*celgo.Type) (*Program, *apiservercel.Error) {
	invalid := func(cause error, format string, args ...any) *apiservercel.Error {
		return &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid, Detail: fmt.Sprintf(format, args...), Cause: cause}
	}
	env := e.set.NewExpressionsEnv()
	if stored {
		env = e.set.StoredExpressionsEnv()
	}
	defer e.metrics.Compiled(time.Now())
	ast, issues := env.Compile(source)
	if issues != nil {
		return nil, invalid(apiservercel.NewCompilationError(issues), "compilation failed: %s", issues)
	}
	if !oneOf(ast.OutputType(), returns) {
		if len(returns) == 1 {
			return nil, invalid(nil, "must evaluate to %v but got %v", returns[0], ast.OutputType())
		}
		return nil, invalid(nil, "must evaluate to one of %v but got %v", returns, ast.OutputType())
	}
	p, err := env.Program(ast, celgo.InterruptCheckFrequency(celconfig.CheckFrequency))
	if err != nil {
		return nil, &apiservercel.Error{Type: apiservercel.ErrorTypeInternal, Detail: "program instantiation failed: " + err.Error()}
	}
	return &Program{Source: source, Output: ast.OutputType(), program: p, metrics: e.metrics}, nil
}

func oneOf(t *celgo.Type, types []*celgo.Type) bool {
	for _, want := range types {
		if t.IsExactType(want) || want.IsExactType(celgo.AnyType) {
			return true
		}
	}
	return false
}

// Budget bounds what a group of expressions may cost together at run time.
type Budget struct{ left int64 }

// NewBudget returns a budget of cost units, mostly one of the constants of
// upstream's configuration.
func NewBudget(cost int64) *Budget { return &Budget{cost} }

func (b *Budget) spend(cost uint64) error {
	if cost > math.MaxInt64 || int64(cost) > b.left {
		b.left = -1
		return &apiservercel.Error{
			Type: apiservercel.ErrorTypeInvalid, Cause: apiservercel.ErrOutOfBudget,
			Detail: "validation failed due to running out of cost budget, no further validation rules will be run",
		}
	}
	b.left -= int64(cost)
	return nil
}

// Eval evaluates the program. Variables are looked up in vars: a map or an
// interpreter.Activation. When the budget is spent, the error is
// ErrOutOfBudget and nothing more must be evaluated with it.
func (p *Program) Eval(ctx context.Context, vars any, b *Budget) (ref.Val, error) {
	defer p.metrics.Evaluated(time.Now())
	v, details, err := p.program.ContextEval(ctx, vars)
	if a, ok := vars.(*Activation); ok {
		if err := b.spend(a.variables.takeCost()); err != nil {
			return nil, err
		}
	}
	if details == nil || details.ActualCost() == nil {
		return nil, &apiservercel.Error{
			Type: apiservercel.ErrorTypeInternal, Cause: apiservercel.ErrOutOfBudget,
			Detail: fmt.Sprintf("runtime cost could not be calculated for expression: %v, no further expression will be run", p.Source),
		}
	}
	if err := b.spend(*details.ActualCost()); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, &apiservercel.Error{
			Type: apiservercel.ErrorTypeInvalid, Detail: fmt.Sprintf("expression '%v' resulted in error: %v", p.Source, err),
		}
	}
	return v, nil
}
