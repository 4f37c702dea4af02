package apiserver

import (
	"context"
	"net/http"
	"sync"
	"unicode/utf8"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// How many characters of warnings a response carries, and how many of each
// warning if all of them would be more.
const (
	warningsLimit = 4 * 1024
	warningLimit  = 256
)

type warnKey struct{}

func warning(ctx context.Context, text string) {
	if f, ok := ctx.Value(warnKey{}).(func(string)); ok {
		f(text)
	}
}

// warnings are what a response warns of, each of it once, in headers as RFC 7234
// has them.
type warnings struct {
	header http.Header

	mu    sync.Mutex
	told  map[string]bool
	texts []string
	// written counts characters in the header; short is set once they have become
	// too many.
	written int
	short   bool
}

func (w *warnings) add(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case text == "", w.told[text], w.short && w.written >= warningsLimit:
		return
	case w.told == nil:
		w.told = map[string]bool{}
	}
	w.told[text] = true
	w.texts = append(w.texts, text)
	switch {
	case w.short:
		w.write(shortened(text))
	case w.written+utf8.RuneCountInString(text) <= warningsLimit:
		w.write(text)
	default:
		w.short, w.written = true, 0
		w.header.Del("Warning")
		for _, text := range w.texts {
			w.write(shortened(text))
		}
	}
}

// write leaves out what no header can say.
func (w *warnings) write(text string) {
	if header, err := utilnet.NewWarningHeader(299, "-", text); err == nil {
		w.written += utf8.RuneCountInString(text)
		w.header.Add("Warning", header)
	}
}

func shortened(text string) string {
	if runes := []rune(text); len(runes) > warningLimit {
		return string(runes[:warningLimit])
	}
	return text
}
