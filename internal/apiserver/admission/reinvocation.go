package admission

// reinvocation is the second round of the mutating plug-ins, which sees what
// later plug-ins of the first round changed.
type reinvocation struct {
	wanted, under bool
	memory        map[any]any
}

// Reinvoke asks for a second round, because the object was changed after
// others have seen it. There is no third.
func (a *Attributes) Reinvoke() { a.reinvocation.wanted = true }

// Reinvoked reports whether this is the second round.
func (a *Attributes) Reinvoked() bool { return a.reinvocation.under }

// Remember keeps a plug-in's value for the second round.
func (a *Attributes) Remember(plugin, value any) {
	if a.reinvocation.memory == nil {
		a.reinvocation.memory = map[any]any{}
	}
	a.reinvocation.memory[plugin] = value
}

// Recall returns what was remembered, or nil.
func (a *Attributes) Recall(plugin any) any { return a.reinvocation.memory[plugin] }
