package apiserver

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestWarnings(t *testing.T) {
	t.Parallel()
	long := func(r string, n int) string { return strings.Repeat(r, n) }
	var many, few []string
	for i := range 20 {
		many = append(many, fmt.Sprintf("%02d%s", i, long("é", 300)))
		few = append(few, fmt.Sprintf("%02d%s", i, long("é", 254)))
	}
	for name, c := range map[string]struct{ told, header []string }{
		"each once":             {[]string{"a", "b", "a", ""}, []string{"a", "b"}},
		"quoted":                {[]string{`say "x\y"`}, []string{`say \"x\\y\"`}},
		"no header":             {[]string{"a\nb", "\xff", "c"}, []string{"c"}},
		"as long as may be":     {[]string{long("é", 4000), long("a", 96)}, []string{long("é", 4000), long("a", 96)}},
		"longer":                {[]string{long("é", 4000), long("a", 97), "b"}, []string{long("é", 256), long("a", 97), "b"}},
		"many, all of them cut": {many, few[:16]},
	} {
		w := warnings{header: http.Header{}}
		for _, text := range c.told {
			w.add(text)
		}
		want := []string{}
		for _, text := range c.header {
			want = append(want, `299 - "`+text+`"`)
		}
		if got := w.header.Values("Warning"); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
