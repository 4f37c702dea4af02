package apiserver

import (
	"context"
	"mime"
	"net/http"
	"slices"
	"strconv"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/apis"
	"skiff/internal/apiserver/verbs"
	"skiff/internal/store/cache"
)

var scaleGVK = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// lookup finds what a request is about; v is nil if that is not served.
func (s *Server) lookup(ctx context.Context, info *requestInfo) (res *verbs.Resource, v *verbs.Version) {
	find := func() {
		if res = s.Verbs.Lookup(schema.GroupResource{Group: info.GroupVersion.Group, Resource: info.Resource}); res != nil {
			if v = res.Version(info.GroupVersion); v != nil && v.Off {
				v = nil
			}
		}
	}
	if find(); v == nil && s.Definitions != nil {
		s.Definitions.Await(ctx, info.GroupVersion, info.Resource)
		find()
	}
	return res, v
}

// serveResource answers a request below /api or /apis.
func (s *Server) serveResource(w http.ResponseWriter, r *http.Request, info *requestInfo) error {
	res, v := s.lookup(r.Context(), info)
	if v == nil {
		if s.builtIn(info.GroupVersion.Group) {
			return notFound()
		}
		http.NotFound(w, r)
		return nil
	}
	if res.Custom == nil {
		if err := s.routed(r, info, v); err != nil {
			return err
		}
	}
	if v.Deprecation != "" {
		s.metrics.askedDeprecated(info)
		warning(r.Context(), v.Deprecation)
	}
	req := &verbs.Request{Version: v, Namespace: info.Namespace, Name: info.Name, Subresource: info.Subresource}
	if err := checkScope(info, req); err != nil {
		return err
	}
	if info.Selected {
		req.Name = ""
	}
	if res.Virtual == nil && info.Verb != "update" {
		if err := req.CheckPath(); err != nil {
			return err
		}
	}
	if info.Subresource != "" {
		return s.serveSubresource(w, r, info, req)
	}
	if info.Verb == "watch" && res.Virtual != nil {
		return apierrors.NewMethodNotSupported(res.GroupResource(), info.Verb)
	}
	if !res.Serves(info.Verb) {
		return methodNotAllowed(info, req)
	}
	h := handlerOf(info, res)
	if h == nil {
		return methodNotAllowed(info, req)
	}
	return s.negotiated(w, r, req, h)
}

// checkScope refuses paths with a namespace where there is none, and without one
// where there must be one.
func checkScope(info *requestInfo, req *verbs.Request) error {
	res := req.Resource()
	if !res.Namespaced {
		req.Namespace = ""
		// A namespace's own path is parsed as one inside it.
		if info.Namespace != "" && info.Resource != "namespaces" {
			return notFound()
		}
		return nil
	}
	if req.Namespace != "" {
		return nil
	}
	switch info.Verb {
	case "list", "watch":
		return nil
	case "deletecollection":
		return methodNotAllowed(info, req)
	}
	if info.Name != "" {
		return notFound()
	}
	if info.Verb != "create" || res.Virtual == nil {
		return methodNotAllowed(info, req)
	}
	return nil
}

// handler answers a verb in the form that the client wants.
type handler func(s *Server, w http.ResponseWriter, r *http.Request, m *mediaType, req *verbs.Request) error

// handlerOf returns what answers the request's verb, nil if nothing does: paths
// without a name are those of collections.
func handlerOf(info *requestInfo, res *verbs.Resource) handler {
	named := info.Name != ""
	switch verb := info.Verb; {
	case verb == "get":
		return (*Server).get
	case verb == "list":
		return (*Server).list
	case verb == "create" && res.Virtual != nil:
		return (*Server).act
	case res.Virtual != nil:
		return nil
	case verb == "watch":
		return (*Server).watch
	case verb == "create" && !named:
		return (*Server).create
	case verb == "update" && named:
		return (*Server).update
	case verb == "patch" && named:
		return (*Server).patch
	case verb == "delete":
		return (*Server).delete
	case verb == "deletecollection":
		return (*Server).deleteCollection
	}
	return nil
}

// negotiated calls h with the form in which objects of the version are wanted.
func (s *Server) negotiated(w http.ResponseWriter, r *http.Request, req *verbs.Request, h handler) error {
	m, err := negotiate(r, offered(req))
	if err != nil {
		return err
	}
	return h(s, w, r, m, req)
}

// builtIn reports whether clients see resources in the group that are not
// custom. As with upstream, what is unknown there is told in a Status, and
// elsewhere by the last of all handlers, in plain text.
func (s *Server) builtIn(group string) bool {
	return slices.ContainsFunc(s.Verbs.Resources(), func(r *verbs.Resource) bool {
		if r.Custom != nil {
			return false
		}
		for v := range r.Served() {
			if v.Group == group {
				return true
			}
		}
		return false
	})
}

// methodNotAllowed is the answer to what a path does not serve, in upstream's
// words.
func methodNotAllowed(info *requestInfo, req *verbs.Request) error {
	if req.Resource().Custom != nil {
		return apierrors.NewMethodNotSupported(schema.GroupResource{Group: req.Version.Group, Resource: req.Resource().Names.Resource}, info.Verb)
	}
	return noMethod(info.Verb)
}

func (s *Server) get(w http.ResponseWriter, r *http.Request, m *mediaType, req *verbs.Request) error {
	query := r.URL.Query()
	if export, _ := strconv.ParseBool(query.Get("export")); export {
		return apierrors.NewBadRequest("the export parameter, deprecated since v1.14, is no longer supported")
	}
	e, err := s.Verbs.Get(r.Context(), req, &metav1.GetOptions{ResourceVersion: query.Get("resourceVersion")})
	if err != nil {
		return err
	}
	return s.answer(w, r, m, req, e, http.StatusOK)
}

// answer writes one stored object in the form that was asked for.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, m *mediaType, req *verbs.Request, e *cache.Entry, code int) error {
	recordEntry(r.Context(), req.Version, e)
	switch m.As {
	case "Table":
		t, err := s.table(r, m, req.Version, []*cache.Entry{e}, nil)
		if err != nil {
			return err
		}
		writeObject(w, r, m, code, t, metaGVK(m, "Table"))
		return nil
	case "PartialObjectMetadata":
		p, err := partial(req.Version, e)
		if err != nil {
			return err
		}
		writeObject(w, r, m, code, p, metaGVK(m, "PartialObjectMetadata"))
		return nil
	case "PartialObjectMetadataList":
		return notShown("you requested PartialObjectMetadataList, but the requested object is not a list (" + internalType(req.Version, "") + ")")
	}
	return writeEntry(w, r, m, req.Version, e, code)
}

// internalType is what upstream's messages call the type of the version's objects.
func internalType(v *verbs.Version, suffix string) string {
	if v.Resource().Custom != nil {
		return "*unstructured.Unstructured" + suffix
	}
	return "*" + verbs.InternalName(v.GVK().GroupKind()) + suffix
}

func metaGVK(m *mediaType, kind string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: "meta.k8s.io", Version: m.Version, Kind: kind}
}

func (s *Server) list(w http.ResponseWriter, r *http.Request, m *mediaType, req *verbs.Request) error {
	o, _, err := listOptions(r)
	if err != nil {
		return err
	}
	list, err := s.Verbs.List(r.Context(), req, o)
	if err != nil {
		return err
	}
	return s.answerList(w, r, m, req, list)
}

func (s *Server) answerList(w http.ResponseWriter, r *http.Request, m *mediaType, req *verbs.Request, list *verbs.ListResult) error {
	recordList(r.Context(), req.Version, list)
	meta := new(listMeta(list))
	switch m.As {
	case "Table":
		t, err := s.table(r, m, req.Version, list.Entries, meta)
		if err != nil {
			return err
		}
		writeObject(w, r, m, http.StatusOK, t, metaGVK(m, "Table"))
		return nil
	case "PartialObjectMetadataList":
		p, err := partialList(req.Version, list.Entries, meta)
		if err != nil {
			return err
		}
		for i := range p.Items {
			p.Items[i].SetGroupVersionKind(metaGVK(m, "PartialObjectMetadata"))
		}
		writeObject(w, r, m, http.StatusOK, p, metaGVK(m, "PartialObjectMetadataList"))
		return nil
	}
	if m.As == "PartialObjectMetadata" {
		return notShown("you requested PartialObjectMetadata, but the requested object is a list (" + internalType(req.Version, "List") + ")")
	}
	return writeList(w, r, m, req.Version, list)
}

// readObject reads the request's body into a new object of the version.
func readObject(r *http.Request, v *verbs.Version, fieldValidation string) (apis.Object, error) {
	obj := v.Version.New()
	if err := decoderOf(v, fieldValidation).request(r, obj); err != nil {
		return nil, err
	}
	return obj, nil
}

func (s *Server) create(w http.ResponseWriter, r *http.Request, m *mediaType, req *verbs.Request) error {
	o, err := parse(r, metav1.Convert_url_Values_To_v1_CreateOptions)
	if err != nil {
		return err
	}
	if err := verbs.CheckCreateOptions(o); err != nil {
		return err
	}
	obj, err := readObject(r, req.Version, o.FieldValidation)
	if err != nil {
		return err
	}
	e, err := s.Verbs.Create(r.Context(), req, obj, o)
	if err != nil {
		return err
	}
	return s.answer(w, r, m, req, e, http.StatusCreated)
}

func (s *Server) update(w http.ResponseWriter, r *http.Request, m *mediaType, req *verbs.Request) error {
	o, err := parse(r, metav1.Convert_url_Values_To_v1_UpdateOptions)
	if err != nil {
		return err
	}
	if err := verbs.CheckUpdateOptions(o); err != nil {
		return err
	}
	obj, err := readObject(r, req.Version, o.FieldValidation)
	if err != nil {
		return err
	}
	e, created, err := s.Verbs.Update(r.Context(), req, obj, o)
	if err != nil {
		return err
	}
	return s.answer(w, r, m, req, e, okOrCreated(created))
}

func okOrCreated(created bool) int {
	if created {
		return http.StatusCreated
	}
	return http.StatusOK
}

// patchBody reads a patch, its type and options.
func patchBody(r *http.Request) (types.PatchType, []byte, *metav1.PatchOptions, error) {
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		t = ""
	}
	data, err := readBody(r)
	if err != nil {
		return "", nil, nil, err
	}
	if types.PatchType(t) == types.ApplyCBORPatchType && offersCBOR(r.Context()) {
		t = string(types.ApplyYAMLPatchType)
		if data, err = jsonOfCBOR(data); err != nil {
			return "", nil, nil, err
		}
	}
	recordPatch(r.Context(), data)
	o, err := parse(r, metav1.Convert_url_Values_To_v1_PatchOptions)
	if err != nil {
		return "", nil, nil, err
	}
	return types.PatchType(t), data, o, nil
}

func (s *Server) patch(w http.ResponseWriter, r *http.Request, m *mediaType, req *verbs.Request) error {
	t, data, o, err := patchBody(r)
	if err != nil {
		return err
	}
	e, created, err := s.Verbs.Patch(r.Context(), req, t, data, o)
	if err != nil {
		return err
	}
	return s.answer(w, r, m, req, e, okOrCreated(created))
}

func (s *Server) delete(w http.ResponseWriter, r *http.Request, m *mediaType, req *verbs.Request) error {
	o, err := deleteOptions(r)
	if err != nil {
		return err
	}
	e, gone, err := s.Verbs.Delete(r.Context(), req, o)
	if err != nil {
		return err
	}
	if !gone {
		code := http.StatusOK
		if o.OrphanDependents != nil && !*o.OrphanDependents {
			code = http.StatusAccepted
		}
		return s.answer(w, r, m, req, e, code)
	}
	if req.Resource().ReturnDeleted {
		return s.answer(w, r, m, req, e, http.StatusOK)
	}
	obj, err := e.Object()
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	writeObject(w, r, &mediaType{Media: m.Media, Pretty: m.Pretty}, http.StatusOK, &metav1.Status{
		Status:  metav1.StatusSuccess,
		Details: &metav1.StatusDetails{Name: req.Name, Group: req.Version.Group, Kind: req.Resource().Names.Resource, UID: obj.GetUID()},
	}, schema.GroupVersionKind{Version: "v1", Kind: "Status"})
	return nil
}

func (s *Server) deleteCollection(w http.ResponseWriter, r *http.Request, m *mediaType, req *verbs.Request) error {
	lo, _, err := listOptions(r)
	if err != nil {
		return err
	}
	o, err := deleteOptions(r)
	if err != nil {
		return err
	}
	list, err := s.Verbs.DeleteCollection(r.Context(), req, o, lo)
	if err != nil {
		return err
	}
	return s.answerList(w, r, m, req, list)
}

// act answers the creation of an object that is not stored, such as a review.
func (s *Server) act(w http.ResponseWriter, r *http.Request, m *mediaType, req *verbs.Request) error {
	o, err := parse(r, metav1.Convert_url_Values_To_v1_CreateOptions)
	if err != nil {
		return err
	}
	obj, err := readObject(r, req.Version, o.FieldValidation)
	if err != nil {
		return err
	}
	out, err := s.Verbs.Act(r.Context(), req, obj, o)
	if err != nil {
		return err
	}
	writeObject(w, r, m, http.StatusCreated, out, kindOf(out, req.Version.GVK()))
	return nil
}

// kindOf is the kind that an answer says it has, else the resource's.
func kindOf(obj runtime.Object, fallback schema.GroupVersionKind) schema.GroupVersionKind {
	if gvk := obj.GetObjectKind().GroupVersionKind(); gvk.Kind != "" {
		return gvk
	}
	if _, ok := obj.(*metav1.Status); ok {
		return schema.GroupVersionKind{Version: "v1", Kind: "Status"}
	}
	return fallback
}
