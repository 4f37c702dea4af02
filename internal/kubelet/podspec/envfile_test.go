package podspec

import (
	"strings"
	"testing"
)

func TestEnvFileValue(t *testing.T) {
	const file = "# of the application\n\n  A='one'\nB='two words' # and a comment\nC='first\nsecond\n'\nD= 'nothing'\nE=''\r\n\tF='=#\"\\n'\n"
	for key, want := range map[string]string{"A": "one", "B": "two words", "C": "first\nsecond\n", "D": "", "E": "", "F": `=#"\n`, "G": ""} {
		got, ok, err := envFileValue(file, key)
		if got != want || ok != (want != "") || err != nil {
			t.Errorf("%s is %q (%v, %v), want %q", key, got, ok, err, want)
		}
	}
	for bad, want := range map[string]string{
		"A":             "line 1: no '='",
		"\n='x'":        "line 2: no name",
		"A ='x'":        "line 1: whitespace before",
		"A=x":           "line 1: the value is not in single quotes",
		"A=\"x\"":       "line 1: the value is not in single quotes",
		"A='x\ny":       "line 1: the value has no closing quote",
		"A='x\ny' B='z": "line 2: something follows",
	} {
		if _, _, err := envFileValue(bad, "K"); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %q", bad, err, want)
		}
	}
}

func FuzzEnvFileValue(f *testing.F) {
	f.Add("A='x'\n# c\nB='y\nz' # d\n", "B")
	f.Add("A=", "A")
	f.Fuzz(func(t *testing.T, file, key string) {
		value, ok, err := envFileValue(file, key)
		if (err != nil || !ok) && value != "" || strings.Contains(value, "'") {
			t.Errorf("%q in %q is %q (%v, %v)", key, file, value, ok, err)
		}
	})
}
