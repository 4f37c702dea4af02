package conformance

import (
	"encoding/json"
	"fmt"
	"net/url"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/cluster/testcluster"
)

const many = 200

// fill makes many PodTemplates.
func (s *server) fill() {
	s.Helper()
	var work sync.WaitGroup
	names := make(chan string)
	for range 8 {
		work.Go(func() {
			for name := range names {
				template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: pod("", nil).Spec}
				if err := s.try(&corev1.PodTemplate{ObjectMeta: metav1.ObjectMeta{Name: name}, Template: template}); err != nil {
					s.Error(err)
				}
			}
		})
	}
	for i := range many {
		names <- fmt.Sprintf("template-%04d", i)
	}
	close(names)
	work.Wait()
}

// page reads a page; next is the number of the first template on it.
func (s *server) page(limit int64, token string, next int) *corev1.PodTemplateList {
	s.Helper()
	list, err := s.kube.CoreV1().PodTemplates(s.ns).List(s.ctx, metav1.ListOptions{Limit: limit, Continue: token})
	s.ok(err)
	if int64(len(list.Items)) > limit {
		s.Fatalf("%d items on a page of %d", len(list.Items), limit)
	}
	for i, item := range list.Items {
		if want := fmt.Sprintf("template-%04d", next+i); item.Name != want {
			s.Fatalf("item %d is %s", next+i, item.Name)
		}
	}
	rest := int64(many - next - len(list.Items))
	if got := list.RemainingItemCount; rest > 0 && (got == nil || *got != rest || list.Continue == "") || rest == 0 && (got != nil || list.Continue != "") {
		s.Errorf("%d more items, said to be %v, continued with %q", rest, got, list.Continue)
	}
	return list
}

var chunking = entries{
	"should return chunks of results for list calls": func(s *server) {
		s.fill()
		for _, limit := range []int64{1 + many/7, many / 4, many} {
			found, token, revision := 0, "", ""
			for {
				list := s.page(limit, token, found)
				found += len(list.Items)
				if revision == "" {
					revision = list.ResourceVersion
				}
				if list.ResourceVersion != revision {
					s.Errorf("a page of revision %s continues one of %s", list.ResourceVersion, revision)
				}
				if token = list.Continue; token == "" {
					break
				}
			}
			if found != many {
				s.Errorf("pages of %d hold %d items of %d", limit, found, many)
			}
		}
		for _, version := range []string{"", "0"} {
			list, err := s.kube.CoreV1().PodTemplates(s.ns).List(s.ctx, metav1.ListOptions{ResourceVersion: version})
			s.ok(err)
			if len(list.Items) != many || list.Continue != "" {
				s.Errorf("all at once: %d items, more at %q", len(list.Items), list.Continue)
			}
		}
	},
	"should support continue listing from the last key if the original version has been compacted away, though the list is inconsistent": func(s *server) {
		// Others could not go on with their watches.
		c := testcluster.Start(s.T)
		s = over(s.T, c.Config)
		s.ns = "default"
		s.fill()
		const limit = many / 5
		first := s.page(limit, "", 0)
		// What is kept in memory for a while is not forgotten with a compaction.
		s.create(configMap("later"))
		state := c.Verbs.Cache()
		s.ok(state.Compact(s.ctx, state.Revision()))
		_, _, body := s.request("GET", fmt.Sprintf("/api/v1/namespaces/%s/podtemplates?limit=%d&continue=%s", s.ns, limit, url.QueryEscape(first.Continue)), "")
		var status metav1.Status
		s.ok(json.Unmarshal([]byte(body), &status))
		if !apierrors.IsResourceExpired(&apierrors.StatusError{ErrStatus: status}) || status.Continue == "" {
			s.Fatalf("the expired token: %s", body)
		}
		second := s.page(limit, status.Continue, limit)
		if second.ResourceVersion == first.ResourceVersion {
			s.Errorf("the inconsistent page is of the revision %s that is forgotten", second.ResourceVersion)
		}
		found := 2 * limit
		for token := second.Continue; token != ""; {
			list := s.page(limit, token, found)
			if list.ResourceVersion != second.ResourceVersion {
				s.Errorf("a page of revision %s continues one of %s", list.ResourceVersion, second.ResourceVersion)
			}
			found, token = found+len(list.Items), list.Continue
		}
		if found != many {
			s.Errorf("%d items of %d", found, many)
		}
	},
}
