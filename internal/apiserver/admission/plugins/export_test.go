package plugins

import "context"

// Names returns the names of all plug-ins.
func (d *Deps) Names(ctx context.Context) []string { return names(d.plugins(ctx, nil)) }
