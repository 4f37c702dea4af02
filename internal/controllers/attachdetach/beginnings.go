package attachdetach

import (
	"sync"
	"time"
)

// beginnings remembers when something began.
type beginnings struct {
	mu    sync.Mutex
	times map[string]time.Time
}

// began returns when it began for name, which is now if it was not known.
func (s *beginnings) began(name string, now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.times[name]; ok {
		return t
	}
	if s.times == nil {
		s.times = map[string]time.Time{}
	}
	s.times[name] = now
	return now
}

func (s *beginnings) clear(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.times, name)
}
