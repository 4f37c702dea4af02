package conformance

import (
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// configMaps watches the test's ConfigMaps that are labelled as one of them.
func (s *server) configMaps(from string, labels ...string) events {
	s.Helper()
	selector := metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "watched", Operator: metav1.LabelSelectorOpIn, Values: labels}}}
	parsed, err := metav1.LabelSelectorAsSelector(&selector)
	s.ok(err)
	return s.watch(&corev1.ConfigMapList{}, client.InNamespace(s.ns), client.MatchingLabelsSelector{Selector: parsed},
		&client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: from}})
}

func watched(name, label string) *corev1.ConfigMap {
	c := configMap(name, "mutation", "0")
	c.Labels = map[string]string{"watched": label}
	return c
}

// mutate stores a ConfigMap with the next number.
func (s *server) mutate(c *corev1.ConfigMap, n int) {
	s.Helper()
	s.change(c, c.Name, func() { c.Data["mutation"] = fmt.Sprint(n) })
}

// shows demands that the next event is of the type and has that number.
func (e events) shows(want watch.EventType, name string, n int) *corev1.ConfigMap {
	e.Helper()
	c, ok := e.next(want).(*corev1.ConfigMap)
	if !ok || c.Name != name || c.Data["mutation"] != fmt.Sprint(n) {
		e.Errorf("%s of %v, not of %s with mutation %d", want, c, name, n)
	}
	return c
}

var watchers = entries{
	"should observe add, update, and delete watch notifications on configmaps": func(s *server) {
		onlyA, onlyB, both := s.configMaps("", "a"), s.configMaps("", "b"), s.configMaps("", "a", "b")
		a, b := watched("a", "a"), watched("b", "b")
		s.create(a)
		s.mutate(a, 1)
		s.mutate(a, 2)
		s.delete(a)
		for _, w := range []events{onlyA, both} {
			w.shows(watch.Added, "a", 0)
			w.shows(watch.Modified, "a", 1)
			w.shows(watch.Modified, "a", 2)
			w.shows(watch.Deleted, "a", 2)
		}
		s.create(b)
		s.delete(b)
		for _, w := range []events{onlyB, both} {
			w.shows(watch.Added, "b", 0)
			w.shows(watch.Deleted, "b", 0)
		}
		onlyA.none(watched("last", "a"))
	},
	"should be able to start watching from a specific resource version": func(s *server) {
		c := watched("c", "a")
		s.create(c)
		s.mutate(c, 1)
		from := c.ResourceVersion
		s.mutate(c, 2)
		s.delete(c)
		w := s.configMaps(from, "a")
		w.shows(watch.Modified, "c", 2)
		w.shows(watch.Deleted, "c", 2)
	},
	"should be able to restart watching from the last resource version observed by the previous watch": func(s *server) {
		c := watched("c", "a")
		first := s.configMaps("", "a")
		s.create(c)
		s.mutate(c, 1)
		first.shows(watch.Added, "c", 0)
		last := first.shows(watch.Modified, "c", 1).ResourceVersion
		first.Stop()
		s.mutate(c, 2)
		s.delete(c)
		again := s.configMaps(last, "a")
		again.shows(watch.Modified, "c", 2)
		again.shows(watch.Deleted, "c", 2)
	},
	"should observe an object deletion if it stops meeting the requirements of the selector": func(s *server) {
		c := watched("c", "a")
		w := s.configMaps("", "a")
		s.create(c)
		s.mutate(c, 1)
		s.change(c, "c", func() { c.Labels["watched"] = "other" })
		w.shows(watch.Added, "c", 0)
		w.shows(watch.Modified, "c", 1)
		// What goes is shown as it was, with the revision at which it went.
		if went := w.shows(watch.Deleted, "c", 1); went.Labels["watched"] != "a" || went.ResourceVersion != c.ResourceVersion {
			s.Errorf("what went: %v at %s, it went at %s", went.Labels, went.ResourceVersion, c.ResourceVersion)
		}
		s.mutate(c, 2)
		s.change(c, "c", func() { c.Labels["watched"] = "a" })
		w.shows(watch.Added, "c", 2)
		s.mutate(c, 3)
		s.delete(c)
		w.shows(watch.Modified, "c", 3)
		w.shows(watch.Deleted, "c", 3)
	},
	"should receive events on concurrent watches in same order": func(s *server) {
		const writers, writes, watches = 4, 10, 12
		var list corev1.ConfigMapList
		s.list(&list, client.InNamespace(s.ns))
		var work sync.WaitGroup
		for i := range writers {
			work.Go(func() {
				c := watched(fmt.Sprint("c", i), "a")
				if err := s.try(c); err != nil {
					s.Error(err)
				}
				for n := range writes {
					c.Data["mutation"] = fmt.Sprint(n + 1)
					if err := s.api.Update(s.ctx, c); err != nil {
						s.Error(err)
					}
				}
				if err := s.api.Delete(s.ctx, c); err != nil {
					s.Error(err)
				}
			})
		}
		// Each watch begins at what the one before saw first.
		var first []string
		from := list.ResourceVersion
		for range watches {
			w := s.configMaps(from, "a")
			var order []string
			for len(order) < writers*(writes+2) && len(first) == 0 || len(order) < len(first) {
				select {
				case e := <-w.ResultChan():
					order = append(order, e.Object.(*corev1.ConfigMap).ResourceVersion)
				case <-s.ctx.Done():
					s.Fatalf("a watch ends with %v", order)
				}
			}
			w.Stop()
			if len(first) > 0 && fmt.Sprint(order) != fmt.Sprint(first) {
				s.Fatalf("one watch sees %v, another %v", first, order)
			}
			first, from = order[1:], order[0]
		}
		work.Wait()
	},
}
