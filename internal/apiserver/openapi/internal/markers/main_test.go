package main

import (
	"os"
	"testing"
)

// What is embedded must be what the modules' present versions say.
func TestFactsAreUpToDate(t *testing.T) {
	have, err := os.ReadFile("../../facts.txt")
	if err != nil {
		t.Fatal(err)
	}
	want, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != want {
		t.Error("facts.txt is not what the source says; run go generate ./internal/apiserver/openapi")
	}
}

func TestDescription(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"lines are joined", []string{"a", "b"}, "a b"},
		{"paragraphs", []string{"a", "", "b"}, "a\n\nb"},
		{"indented lines stay", []string{"a", "  b", "  c", "d"}, "a\n  b\n  c\nd"},
		{"markers and plans are left out", []string{"a", "+optional", plan + ": think", "b"}, "a b"},
		{"what is below a rule is left out", []string{"a", "---", "b"}, "a"},
		{"an empty line before markers leaves a line break", []string{"a", "", "+optional"}, "a\n"},
		{"nothing", nil, ""},
	} {
		if got := description(c.lines); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
