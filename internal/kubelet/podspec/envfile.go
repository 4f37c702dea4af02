package podspec

import (
	"fmt"
	"strings"
)

// envFileValue returns the value of the variable key in a file of variables
// (KEP-3721): lines of the form NAME='value', whose values may go over several
// lines and have no escapes; empty lines; and comments, which begin with #.
func envFileValue(file, key string) (value string, ok bool, err error) {
	lines := strings.Split(file, "\n")
	for i := 0; i < len(lines); i++ {
		at := i + 1
		line := strings.TrimLeft(strings.TrimSuffix(lines[i], "\r"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		name, rest, assigned := strings.Cut(line, "=")
		switch {
		case !assigned:
			return "", false, fmt.Errorf("line %d: no '='", at)
		case strings.TrimRight(name, " \t") == "":
			return "", false, fmt.Errorf("line %d: no name before '='", at)
		case strings.TrimRight(name, " \t") != name:
			return "", false, fmt.Errorf("line %d: whitespace before '='", at)
		case rest != strings.TrimLeft(rest, " \t"):
			// As in a shell, this assigns nothing.
			if name == key {
				return "", false, nil
			}
			continue
		case !strings.HasPrefix(rest, "'"):
			return "", false, fmt.Errorf("line %d: the value is not in single quotes", at)
		}
		text, after, closed := strings.Cut(rest[1:], "'")
		for !closed {
			if i++; i >= len(lines) {
				return "", false, fmt.Errorf("line %d: the value has no closing quote", at)
			}
			var more string
			more, after, closed = strings.Cut(lines[i], "'")
			text += "\n" + more
		}
		if after = strings.TrimLeft(after, " \t\r"); after != "" && after[0] != '#' {
			return "", false, fmt.Errorf("line %d: something follows the closing quote", i+1)
		}
		if name == key {
			return text, text != "", nil
		}
	}
	return "", false, nil
}
