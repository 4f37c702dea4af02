package apiserver

import (
	"net/http"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/apis"
	"skiff/internal/apiserver/verbs"
)

func (s *Server) serveSubresource(w http.ResponseWriter, r *http.Request, info *requestInfo, req *verbs.Request) error {
	res := req.Resource()
	switch {
	case info.Subresource == "status" && req.Version.Has("status"):
		return s.serveView(w, r, info, req)
	case info.Subresource == "scale" && req.Version.Has("scale"):
		return s.serveScale(w, r, info, req)
	}
	sub := res.Subresource(info.Subresource)
	if sub == nil {
		return notFound()
	}
	switch {
	case sub.Prepare != nil:
		return s.serveView(w, r, info, req)
	case sub.Create != nil:
		if info.Verb != "create" {
			return methodNotAllowed(info, req)
		}
		return s.serveAction(w, r, req, sub)
	}
	return s.connect(w, r, info, req)
}

func (s *Server) serveScale(w http.ResponseWriter, r *http.Request, info *requestInfo, req *verbs.Request) error {
	m, err := negotiate(r, plainOnly)
	if err != nil {
		return err
	}
	var scale *autoscalingv1.Scale
	switch info.Verb {
	case "get":
		e, err := s.Verbs.Get(r.Context(), req, &metav1.GetOptions{})
		if err != nil {
			return err
		}
		obj, err := req.Version.Object(r.Context(), e)
		if err != nil {
			return err
		}
		if scale, err = req.Resource().ReadScale(obj); err != nil {
			return err
		}
	case "update":
		o, err := parse(r, metav1.Convert_url_Values_To_v1_UpdateOptions)
		if err != nil {
			return err
		}
		body := &autoscalingv1.Scale{}
		if err := (decoder{gvk: scaleGVK, fieldValidation: o.FieldValidation}).request(r, body); err != nil {
			return err
		}
		if scale, err = s.Verbs.UpdateScale(r.Context(), req, o, body); err != nil {
			return err
		}
	case "patch":
		t, data, o, perr := patchBody(r)
		if perr != nil {
			return perr
		}
		scale, err = s.Verbs.PatchScale(r.Context(), req, t, data, o)
	default:
		return methodNotAllowed(info, req)
	}
	if err != nil {
		return err
	}
	writeObject(w, r, m, http.StatusOK, scale, scaleGVK)
	return nil
}

// serveView answers for a subresource that is a view of its parent.
func (s *Server) serveView(w http.ResponseWriter, r *http.Request, info *requestInfo, req *verbs.Request) error {
	switch info.Verb {
	case "get":
		return s.negotiated(w, r, req, (*Server).get)
	case "update":
		return s.negotiated(w, r, req, (*Server).update)
	case "patch":
		return s.negotiated(w, r, req, (*Server).patch)
	}
	return methodNotAllowed(info, req)
}

// serveAction answers for a subresource that does something (binding,
// eviction, token).
func (s *Server) serveAction(w http.ResponseWriter, r *http.Request, req *verbs.Request, sub *apis.Subresource) error {
	m, err := negotiate(r, offered(req))
	if err != nil {
		return err
	}
	o, err := parse(r, metav1.Convert_url_Values_To_v1_CreateOptions)
	if err != nil {
		return err
	}
	if err := verbs.CheckCreateOptions(o); err != nil {
		return err
	}
	body := sub.New()
	if err := (decoder{gvk: sub.Kind, oldVersions: sub.OldVersions, fieldValidation: o.FieldValidation}).request(r, body); err != nil {
		return err
	}
	out, err := s.Verbs.Act(r.Context(), req, body, o)
	if err != nil {
		return err
	}
	if _, told := out.(*metav1.Status); !told {
		switch m.As {
		case "PartialObjectMetadata":
			writeObject(w, r, m, http.StatusCreated, partialOf(out.(apis.Object)), metaGVK(m, m.As))
			return nil
		case "PartialObjectMetadataList":
			return notShown("you requested PartialObjectMetadataList, but the requested object is not a list (*" + verbs.InternalName(sub.Kind.GroupKind()) + ")")
		}
	}
	writeObject(w, r, m, http.StatusCreated, out, kindOf(out, sub.Kind))
	return nil
}
