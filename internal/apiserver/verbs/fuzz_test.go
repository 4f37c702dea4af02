package verbs

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"path"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// FuzzContinue: a token starts inside the list, or is refused.
func FuzzContinue(f *testing.F) {
	for _, start := range []string{"default/a\x00", "a..b\x00", "../secrets/x", "/", "", "a//b"} {
		f.Add(encodeContinue(7, start))
	}
	f.Add("e30")
	f.Add("!")
	f.Fuzz(func(t *testing.T, token string) {
		rev, start, err := decodeContinue(token)
		if err != nil {
			return
		}
		const list = "/registry/configmaps/default/"
		if rev == 0 || !strings.HasPrefix(path.Clean(list+start), strings.TrimSuffix(list, "/")) {
			t.Errorf("%d %q", rev, start)
		}
		again, from, err := decodeContinue(encodeContinue(rev, start))
		if err != nil || again != rev || from != start {
			t.Errorf("%d %q became %d %q (%v)", rev, start, again, from, err)
		}
	})
}

func TestContinue(t *testing.T) {
	for start, good := range map[string]bool{
		"ns/name\x00": true, "a..b\x00": true, "system:x\x00": true,
		"": false, "../x": false, "ns/../../x": false, "ns//x": false, "/x": false, ".": false, "ns/": false,
	} {
		if _, got, err := decodeContinue(encodeContinue(1, start)); (err == nil) != good || (good && got != start) {
			t.Errorf("%q: %q %v", start, got, err)
		}
	}
	raw := base64.RawURLEncoding.EncodeToString([]byte(`{"v":"meta.k8s.io/v1","rv":0,"start":"x"}`))
	if _, _, err := decodeContinue(raw); err == nil {
		t.Error("a token without a revision")
	}
}

// FuzzPatch: any patch makes a JSON document or an error of the API.
func FuzzPatch(f *testing.F) {
	doc := []byte(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","env":[{"name":"A","value":"1"}]}]}}`)
	kinds := []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType}
	for _, p := range []string{
		`[{"op":"add","path":"/metadata/labels/x","value":"y"}]`, `[{"op":"copy","from":"/spec","path":"/spec/containers/0"}]`,
		`[{"op":"test","path":"","value":null},{"op":"move","from":"/a","path":"/b"}]`, `{"spec":{"containers":[{"name":"c","$patch":"delete"}]}}`,
		`{"metadata":null}`, `{"spec":{"containers":[{"$setElementOrder/env":[{"name":"A"}],"$retainKeys":["x"]}],"$patch":"replace"}}`, `[{"op":"test","path":""}]`, `null`, `[]`, `"x"`, `{"$patch":7}`,
	} {
		for i := range kinds {
			f.Add(i, []byte(p))
		}
	}
	f.Fuzz(func(t *testing.T, kind int, patch []byte) {
		if kind < 0 || kind >= len(kinds) {
			return
		}
		for _, strictness := range []string{"Strict", "Ignore"} {
			p := &textPatch{kinds[kind], patch, strictness}
			if p.kind == types.StrategicMergePatchType {
				_ = p.merge(context.Background(), doc, &corev1.Pod{}) // any error will do, but no panic
				continue
			}
			if _, err := p.strict(); err != nil {
				continue
			}
			out, err := p.apply(doc)
			if err == nil && !json.Valid(out) {
				t.Errorf("%s of %s made %s", p.kind, patch, out)
			}
		}
	})
}
