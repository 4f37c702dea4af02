package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLogTail(t *testing.T) {
	const stamp = "2026-11-26T19:00:35.824997582Z "
	for name, c := range map[string]struct{ log, want string }{
		"empty":              {"", ""},
		"lines":              {stamp + "stdout F one\n" + stamp + "stderr F two words\n", "one\ntwo words\n"},
		"without a line end": {stamp + "stdout P DONE\n", "DONE"},
		"a line in parts":    {stamp + "stdout P half\n" + stamp + "stdout F  and half\n", "half and half\n"},
		"many lines":         {strings.Repeat(stamp+"stdout F x\n", 2*maxTerminationLogLines), strings.Repeat("x\n", maxTerminationLogLines)},
		"a long line":        {stamp + "stdout F " + strings.Repeat("x", 2*maxTerminationLog) + "\n", strings.Repeat("x", maxTerminationLog-1) + "\n"},
	} {
		path := filepath.Join(t.TempDir(), "0.log")
		if err := os.WriteFile(path, []byte(c.log), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := logTail(path); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
