// Package tokenfile authenticates by tokens that a file lists once and for all.
package tokenfile

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"skiff/internal/identity"
)

// Authenticator implements bearer.Token. It maps tokens to users.
type Authenticator map[string]*identity.User

// Load reads a file of comma-separated values: token, user name, UID and, if
// there are any, the names of groups, comma-separated in one value of their own.
func Load(path string, log *slog.Logger) (Authenticator, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	reader := csv.NewReader(file)
	reader.FieldsPerRecord = -1
	users := Authenticator{}
	for number := 1; ; number++ {
		record, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return users, nil
		}
		if err != nil {
			return nil, fmt.Errorf("token file '%s': %w", path, err)
		}
		if len(record) < 3 {
			return nil, fmt.Errorf("token file '%s' must have at least 3 columns (token, user name, user uid), found %d", path, len(record))
		}
		token := record[0]
		if token == "" {
			log.Warn("a token is empty: nobody has it", "file", path, "record", number)
			continue
		}
		if users[token] != nil {
			log.Warn("a token is listed twice: the last user has it", "file", path, "record", number)
		}
		users[token] = user(record)
	}
}

func user(record []string) *identity.User {
	u := &identity.User{Name: record[1], UID: record[2]}
	if len(record) > 3 {
		u.Groups = strings.Split(record[3], ",")
	}
	if !u.InGroup(identity.GroupAuthenticated) {
		u.Groups = append(u.Groups, identity.GroupAuthenticated)
	}
	return u
}

// AuthenticateToken implements bearer.Token.
func (a Authenticator) AuthenticateToken(_ context.Context, token string) (*identity.User, error) {
	known := a[token]
	if known == nil {
		return nil, nil
	}
	u := *known
	u.Groups = slices.Clone(known.Groups)
	return &u, nil
}
