package plugins

import "context"

// Names returns the names of all plug-ins.
func (d *Deps) Names(ctx context.Context) []string { return names(d.plugins(ctx, nil)) }

// Defaults returns the plug-ins in their order, each with "on" or "off".
func (d *Deps) Defaults(ctx context.Context) []string {
	var out []string
	for _, p := range d.plugins(ctx, nil) {
		switch {
		case p.name == "":
		case p.off:
			out = append(out, p.name+" off")
		default:
			out = append(out, p.name+" on")
		}
	}
	return out
}
