package tokenfile

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.csv")
	for name, c := range map[string]struct {
		text   string
		users  map[string]string // by token
		warned string
		failed string
	}{
		"empty":     {text: ""},
		"users":     {text: "t1,ann,1\nt2,bob,2,\"devs,ops\"\n", users: map[string]string{"t1": "ann 1 [system:authenticated]", "t2": "bob 2 [devs ops system:authenticated]", "t3": ""}},
		"own group": {text: "t,ann,1,system:authenticated", users: map[string]string{"t": "ann 1 [system:authenticated]"}},
		"no token":  {text: ",ann,1\nt,bob,2", users: map[string]string{"": "", "t": "bob 2 [system:authenticated]"}, warned: "a token is empty"},
		"twice":     {text: "t,ann,1\nt,bob,2", users: map[string]string{"t": "bob 2 [system:authenticated]"}, warned: "a token is listed twice"},
		"too short": {text: "t,ann", failed: "token file '" + path + "' must have at least 3 columns (token, user name, user uid), found 2"},
		"no CSV":    {text: `t,"ann,1`, failed: "token file '" + path + "': parse error on line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			a, err := Load(path, slog.New(slog.NewTextHandler(&log, nil)))
			if (err == nil) != (c.failed == "") || err != nil && !strings.HasPrefix(err.Error(), c.failed) {
				t.Fatalf("loading: %v, want %q", err, c.failed)
			}
			if !strings.Contains(log.String(), c.warned) || (c.warned == "") != (log.Len() == 0) {
				t.Errorf("logged %q, want %q", log.String(), c.warned)
			}
			for token, want := range c.users {
				u, err := a.AuthenticateToken(context.Background(), token)
				if err != nil {
					t.Fatal(err)
				}
				got := ""
				if u != nil {
					got = fmt.Sprint(u.Name, " ", u.UID, " ", u.Groups)
				}
				if got != want {
					t.Errorf("token %q is of %q, want %q", token, got, want)
				}
			}
		})
	}
	if _, err := Load(filepath.Join(t.TempDir(), "missing"), slog.Default()); !os.IsNotExist(err) {
		t.Errorf("a missing file: %v", err)
	}
}
