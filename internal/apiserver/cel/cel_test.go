package cel

import (
	"context"
	"errors"
	"strings"
	"testing"

	celgo "github.com/google/cel-go/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

func TestCompile(t *testing.T) {
	admission := NewAdmission(nil)
	plain := admission.Environment(Declares{})
	for source, want := range map[string]string{
		"object.x == 1":       "",
		"request.name == 'x'": "",
		"namespaceObject.metadata.labels['a'] == 'b'":   "",
		"quantity('1Gi').isGreaterThan(quantity('1M'))": "",
		"object.":                              "compilation failed: ERROR: <input>:1:8: Syntax error: no viable alternative at input '.'",
		"1":                                    "must evaluate to bool but got int",
		"request.nmae == 'x'":                  "undefined field 'nmae'",
		"params.x":                             "undeclared reference to 'params'",
		"authorizer.group('').check('').bad()": "undeclared reference to 'authorizer'",
		"variables.x":                          "undeclared reference to 'variables'",
	} {
		_, err := plain.Compile(source, false, celgo.BoolType)
		if got := text(err); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", source, got, want)
		}
	}
	if admission.Environment(Declares{}) != plain {
		t.Error("an environment was made twice")
	}
}

func text(err *apiservercel.Error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// everyone lets everyone do what has the verb "good".
type everyone struct{}

func (everyone) Authorize(_ context.Context, a *authz.Attributes) (authz.Decision, string, error) {
	if a.Verb == "good" && a.User.Name == "bob" && (a.Path == "/x" || a.Resource == "pods" && a.Namespace == "n") {
		return authz.Allow, "", nil
	}
	return authz.NoOpinion, "", nil
}

func TestScope(t *testing.T) {
	scope := NewAdmission(nil).Scope(true)
	for _, v := range [][2]string{{"five", "object.n + 3"}, {"ten", "variables.five * 2"}, {"broken", "nonsense("}, {"unused", "object.none"}} {
		if err := scope.Variable(v[0], v[1], false); (err != nil) != (v[0] == "broken") {
			t.Errorf("variable %s: %v", v[0], err)
		}
	}
	z, r := Authorizers(everyone{}, &identity.User{Name: "bob"}, RequestResource{Resource: schema.GroupVersionResource{Version: "v1", Resource: "pods"}, Namespace: "n"})
	vars := Activation{
		Object: map[string]any{"n": int64(2), "list": []any{"a", "b"}}, Params: map[string]any{"max": int64(10)},
		Request: map[string]any{"name": "x"}, Authorizer: z, RequestResource: r,
	}
	for source, want := range map[string]string{
		"variables.ten == params.max":                        "true",
		"variables.ten > 10":                                 "false",
		"oldObject == null && namespaceObject == null":       "true",
		"object.list.all(x, x in ['a', 'b'])":                "true",
		"authorizer.path('/x').check('good').allowed()":      "true",
		"authorizer.requestResource.check('good').allowed()": "true",
		"authorizer.requestResource.check('bad').allowed()":  "false",
		"variables.broken":                                   `composited variable "broken" fails to compile`,
		"variables.unused == 1":                              `composited variable "unused" fails to evaluate: no such key: none`,
		"object.none == 1":                                   "expression 'object.none == 1' resulted in error: no such key: none",
	} {
		p, compileErr := scope.Compile(source, Declares{Authorizer: true}, false, celgo.BoolType, celgo.DynType)
		if compileErr != nil {
			t.Errorf("%s: %v", source, compileErr)
			continue
		}
		v, err := p.Eval(t.Context(), scope.Activate(t.Context(), vars), NewBudget(1e6))
		switch {
		case err != nil && !strings.Contains(err.Error(), want):
			t.Errorf("%s: %v, want %s", source, err, want)
		case err == nil && celgo.BoolType.IsExactType(p.Output) && (v.Value() == true) != (want == "true"):
			t.Errorf("%s: %v, want %s", source, v, want)
		case err == nil && want != "true" && want != "false":
			t.Errorf("%s: no error, want %s", source, want)
		}
	}
}

func TestBudget(t *testing.T) {
	scope := NewAdmission(nil).Scope(false)
	if err := scope.Variable("many", "object.l.map(x, object.l.map(y, y + x))", false); err != nil {
		t.Fatal(err)
	}
	list := make([]any, 100)
	for i := range list {
		list[i] = int64(i)
	}
	p, compileErr := scope.Compile("size(variables.many) == 100", Declares{}, false, celgo.BoolType)
	if compileErr != nil {
		t.Fatal(compileErr)
	}
	vars := Activation{Object: map[string]any{"l": list}}
	if _, err := p.Eval(t.Context(), scope.Activate(t.Context(), vars), NewBudget(1e4)); !errors.Is(err, apiservercel.ErrOutOfBudget) {
		t.Errorf("a variable beyond the budget: %v", err)
	}
	budget := NewBudget(1e7)
	active := scope.Activate(t.Context(), vars)
	if v, err := p.Eval(t.Context(), active, budget); err != nil || v.Value() != true {
		t.Fatal(v, err)
	}
	before := budget.left
	if _, err := p.Eval(t.Context(), active, budget); err != nil || before-budget.left > 100 {
		t.Errorf("a variable was evaluated twice: cost %d, %v", before-budget.left, err)
	}
}

// FuzzExpression looks for expressions that break the compiler, or that
// evaluate without end.
func FuzzExpression(f *testing.F) {
	for _, seed := range []string{
		"object.a.b == 'x'", "[1,2,3].map(x, x*x).sum() > 2", "variables.v + 1 == 3", "Object{spec: Object.spec{replicas: 1}} != null",
		"object.all(k, object[k] == 1)", `"a".matches("(a+)+$")`, "[[1]].exists(x, x.exists(y, y == 1))", "has(object.x) && request.dryRun",
	} {
		f.Add(seed)
	}
	admission := NewAdmission(nil)
	f.Fuzz(func(t *testing.T, source string) {
		scope := admission.Scope(false)
		if err := scope.Variable("v", "object.n", false); err != nil {
			t.Fatal(err)
		}
		p, err := scope.Compile(source, Declares{Patch: true}, false, celgo.AnyType)
		if err != nil {
			return
		}
		vars := scope.Activate(t.Context(), Activation{Object: map[string]any{"n": int64(2), "a": map[string]any{"b": "x"}}, Request: map[string]any{}})
		if v, err := p.Eval(t.Context(), vars, NewBudget(1e6)); err == nil && v == nil {
			t.Errorf("%q: neither value nor error", source)
		}
	})
}
