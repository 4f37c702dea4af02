package devnet

import (
	"fmt"
	"io"
	"time"
)

// Progress prints one line for each step of a piece of work, with the time it
// took.
type Progress struct {
	Out io.Writer
	// Now is the clock (default time.Now).
	Now func() time.Time
}

// step does a step and prints how it went. The error tells the step's name.
func (p *Progress) step(name string, do func() error) error {
	now := p.Now
	if now == nil {
		now = time.Now
	}
	began := now()
	if err := do(); err != nil {
		fmt.Fprintf(p.Out, "  ✗ %s\n", name)
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Fprintf(p.Out, "  ✓ %-48s %6.2f s\n", name, now().Sub(began).Seconds())
	return nil
}
