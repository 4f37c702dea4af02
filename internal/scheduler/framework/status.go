package framework

import "strings"

// Code says how bad a Status is.
type Code int

// Codes of a Status. A nil Status is success.
const (
	// Failed is an error of the scheduler or of the API, not of the pod.
	Failed Code = iota + 1
	// Unschedulable may change when other pods go.
	Unschedulable
	// Unresolvable does not change by removing pods from the node.
	Unresolvable
	// Skip leaves the work to the next plugin.
	Skip
)

// Status is why something is not possible. It is immutable: rules return the
// same one many times.
type Status struct {
	Code    Code
	Plugin  string
	Reasons []string
}

// NewStatus returns a status of the plugin.
func NewStatus(code Code, plugin string, reasons ...string) *Status {
	return &Status{Code: code, Plugin: plugin, Reasons: reasons}
}

// Message joins the reasons.
func (s *Status) Message() string {
	if s == nil {
		return ""
	}
	return strings.Join(s.Reasons, ", ")
}

// Error makes a status an error.
func (s *Status) Error() string { return s.Plugin + ": " + s.Message() }
