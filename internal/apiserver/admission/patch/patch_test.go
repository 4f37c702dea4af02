package patch

import (
	"encoding/json"
	"testing"
)

// FuzzOperations looks for patches that break the applying of them, or whose
// result is no JSON.
func FuzzOperations(f *testing.F) {
	document := `{"metadata":{"name":"x","labels":{"a":"b"}},"spec":{"list":[1,{"k":null},"é"],"n":1.5}}`
	for _, seed := range []string{
		`[{"op":"add","path":"/spec/list/-","value":{"x":[]}}]`, `[{"op":"remove","path":"/spec/list/0"}]`,
		`[{"op":"copy","from":"/spec","path":"/spec/n"}]`, `[{"op":"move","from":"/metadata/labels","path":"/spec/list/1/k"}]`,
		`[{"op":"test","path":"/spec/n","value":1.5},{"op":"replace","path":"","value":null}]`, `[{"op":"add","path":"/a~1b~0c","value":1}]`,
		`[{"op":"add","path":"/spec/list/99999999999","value":1}]`, `[{"op":"replace","path":"/spec/list/-1","value":1}]`, `[null]`, `null`, `[{}]`,
	} {
		f.Add(seed, document)
	}
	f.Fuzz(func(t *testing.T, ops, document string) {
		p, err := Decode([]byte(ops))
		if err != nil || !json.Valid([]byte(document)) {
			return
		}
		out, err := p.Apply([]byte(document))
		if err == nil && !json.Valid(out) {
			t.Errorf("%s applied to %s is %q", ops, document, out)
		}
	})
}

func TestTooManyOperations(t *testing.T) {
	many := make([]map[string]string, maxOperations+1)
	for i := range many {
		many[i] = map[string]string{"op": "remove", "path": "/a"}
	}
	data, err := json.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(data); err == nil {
		t.Error("a patch without bounds is accepted")
	}
}
