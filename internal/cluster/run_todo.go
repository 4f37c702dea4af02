package cluster

import (
	"context"
	"errors"
)

// RunServer runs a server until ctx ends.
func RunServer(ctx context.Context, c ServerConfig) error { return errors.New("server: not assembled") }

// RunAgent runs an agent until ctx ends.
func RunAgent(ctx context.Context, c AgentConfig) error { return errors.New("agent: not assembled") }
