package apiserver

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"skiff/internal/apiserver/verbs"
)

// parse reads a request's options out of its query with the converter of their
// type.
func parse[T any](r *http.Request, convert func(*url.Values, *T, conversion.Scope) error) (*T, error) {
	q, o := r.URL.Query(), new(T)
	if err := convert(&q, o, nil); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return o, nil
}

// listOptions returns the options of a list, watch or deletecollection, and how
// long a watch may last (0: the client does not say).
func listOptions(r *http.Request) (*verbs.ListOptions, time.Duration, error) {
	raw, err := parse(r, metav1.Convert_url_Values_To_v1_ListOptions)
	if err != nil {
		return nil, 0, err
	}
	o := &verbs.ListOptions{
		ResourceVersion: raw.ResourceVersion, ResourceVersionMatch: raw.ResourceVersionMatch,
		Limit: raw.Limit, Continue: raw.Continue,
		AllowBookmarks: raw.AllowWatchBookmarks, SendInitialEvents: raw.SendInitialEvents,
	}
	if o.Labels, err = labels.Parse(raw.LabelSelector); err != nil {
		return nil, 0, apierrors.NewBadRequest(err.Error())
	}
	if o.Fields, err = fields.ParseSelector(raw.FieldSelector); err != nil {
		return nil, 0, apierrors.NewBadRequest(err.Error())
	}
	var timeout time.Duration
	if raw.TimeoutSeconds != nil {
		timeout = time.Duration(*raw.TimeoutSeconds) * time.Second
	}
	return o, timeout, nil
}

// deleteOptions are in the body or, for those without one, in the query.
func deleteOptions(r *http.Request) (*metav1.DeleteOptions, error) {
	data, err := readBody(r)
	if err != nil {
		return nil, err
	}
	if len(data) == 0 {
		return parse(r, metav1.Convert_url_Values_To_v1_DeleteOptions)
	}
	media, err := bodyMedia(r)
	if err != nil {
		return nil, err
	}
	o := &metav1.DeleteOptions{}
	kind := schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"}
	// The options may also be said to be of the resource's group.
	var envelope runtime.Unknown
	if media == mediaProtobuf && len(data) > 4 && envelope.Unmarshal(data[4:]) == nil && envelope.Kind == kind.Kind {
		kind = envelope.GroupVersionKind()
	}
	if media == mediaProtobuf {
		err = decoder{gvk: kind, fieldValidation: metav1.FieldValidationIgnore}.decode(r.Context(), media, data, o)
		recordRequest(r.Context(), o, schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"})
		return o, err
	}
	switch media {
	case mediaCBOR:
		data, err = jsonOfCBOR(data)
	case mediaYAML:
		data, err = yaml.YAMLToJSON(data)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	said, err := verbs.KindOf(data)
	if err == nil && said.Kind != "" && said.Kind != kind.Kind {
		err = fmt.Errorf("no kind %q is registered for version %q in scheme \"pkg/runtime/scheme.go:111\"", said.Kind, said.GroupVersion())
	}
	if err == nil {
		err = verbs.DecodeJSON(r.Context(), data, o, metav1.FieldValidationIgnore)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	o.TypeMeta = metav1.TypeMeta{}
	recordRequest(r.Context(), o, schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"})
	return o, nil
}

// truthy reads a flag of the query of a stream.
func truthy(v string) bool { return v == "true" || v == "1" || v == "True" || v == "TRUE" }
