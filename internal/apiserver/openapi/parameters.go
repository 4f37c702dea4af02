package openapi

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"hash/fnv"
	"reflect"
	"slices"
	"strings"

	"k8s.io/kube-openapi/pkg/validation/spec"
)

func query(name, kind, description string) spec.Parameter {
	return spec.Parameter{
		SimpleSchema:      spec.SimpleSchema{Type: kind},
		ParamProps:        spec.ParamProps{Name: name, In: "query", Description: description},
		CommonValidations: spec.CommonValidations{UniqueItems: true},
	}
}

func body(s spec.Schema, required bool) spec.Parameter {
	return spec.Parameter{ParamProps: spec.ParamProps{Name: "body", In: "body", Required: required, Schema: &s}}
}

// parametersOf are the fields of options, a struct or a pointer to one, that
// can be told in a URL: those that are no structs themselves.
func parametersOf(options any) []spec.Parameter {
	if options == nil {
		return nil
	}
	t := reflect.TypeOf(options)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	docs := docsOf(t)
	var out []spec.Parameter
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		value := f.Type
		for value.Kind() == reflect.Pointer || value.Kind() == reflect.Slice {
			value = value.Elem()
		}
		if name == "" || value.Kind() == reflect.Struct {
			continue
		}
		kind := "string"
		switch value.Kind() {
		case reflect.Bool:
			kind = "boolean"
		case reflect.Int32, reflect.Int64:
			kind = "integer"
		}
		out = append(out, query(name, kind, docs[name]))
	}
	return out
}

// place is what makes parameters of a path's operations the same.
type place struct{ name, in string }

// withCommonParameters moves the parameters that all of a path's operations
// have to the path, and sorts them.
func withCommonParameters(item spec.PathItem) spec.PathItem {
	operations := operationsOf(&item)
	count, common := map[place]int{}, map[place]bool{}
	for _, o := range operations {
		for _, p := range o.Parameters {
			at := place{p.Name, p.In}
			if count[at]++; count[at] == len(operations) && p.In != "body" {
				common[at] = true
				item.Parameters = append(item.Parameters, p)
			}
		}
	}
	order := func(a, b spec.Parameter) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.In, b.In)) }
	slices.SortFunc(item.Parameters, order)
	for _, o := range operations {
		o.Parameters = slices.DeleteFunc(o.Parameters, func(p spec.Parameter) bool { return common[place{p.Name, p.In}] })
		slices.SortFunc(o.Parameters, order)
	}
	return item
}

// share replaces parameters by references to the ones that it returns: all but
// those that belong to a kind, and those by which clients find out what the
// server can do. Their names hold a hash, so that equal ones of several
// documents have the same name.
func share(paths map[string]spec.PathItem) map[string]spec.Parameter {
	shared := map[string]spec.Parameter{}
	type content struct{ name, in, kind, description, ref string }
	names := map[content]string{}
	replace := func(parameters []spec.Parameter) {
		for i, p := range parameters {
			c := content{p.Name, p.In, p.Type, p.Description, ""}
			if p.Schema != nil {
				c.ref = p.Schema.Ref.String()
			}
			if p.Name == "name" || p.Name == "fieldValidation" || p.Name == "dryRun" || p.In == "body" && !strings.HasPrefix(c.ref, "#/definitions/io.k8s.apimachinery") {
				continue
			}
			if names[c] == "" {
				names[c] = p.Name + "-" + contentHash(p)
				shared[names[c]] = p
			}
			parameters[i] = spec.Parameter{Refable: spec.Refable{Ref: spec.MustCreateRef("#/parameters/" + names[c])}}
		}
	}
	for _, item := range paths {
		replace(item.Parameters)
		for _, o := range operationsOf(&item) {
			replace(o.Parameters)
		}
	}
	return shared
}

func contentHash(p spec.Parameter) string {
	text, err := json.Marshal(p)
	if err != nil {
		return "" // parameters consist of strings
	}
	h := fnv.New64()
	h.Write(text)
	return base64.URLEncoding.EncodeToString(h.Sum(nil)[:6])
}
