package api

import (
	"encoding/json"
	"testing"
)

// TestAnswers plays requests that upstream was asked, and compares what clients
// go by: the code, the form, and of refusals the reason and the message.
func TestAnswers(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, line := range facts(t, "answers.jsonl") {
		var want struct {
			Method, Path, User, Accept, Type, Body string
			Code                                   int
			Media, Reason, Message                 string
		}
		if err := json.Unmarshal([]byte(line), &want); err != nil {
			t.Fatal(err)
		}
		a := s.in(t).do(call{Method: want.Method, Path: want.Path, User: want.User, Accept: want.Accept, Type: want.Type, Body: want.Body})
		var got struct{ Reason, Message string }
		if want.Code >= 400 && json.Valid(a.Body) {
			if err := json.Unmarshal(a.Body, &got); err != nil {
				t.Fatal(err)
			}
		}
		if a.Code != want.Code || a.Header.Get("Content-Type") != want.Media || got.Reason != want.Reason || got.Message != want.Message {
			t.Errorf("%s\n%d %s %s %q", line, a.Code, a.Header.Get("Content-Type"), got.Reason, got.Message)
		}
	}
}
