package resource

import "maps"

// In v1beta1 a request has itself the fields that are those of "exactly" later,
// and a device has those of "basic" below that.

// claimFromV1beta1 and its like work on JSON forms.
func claimFromV1beta1(doc map[string]any) {
	each(requestFromV1beta1, doc, "spec", "devices", "requests")
}

func claimToV1beta1(doc map[string]any) { each(requestToV1beta1, doc, "spec", "devices", "requests") }

func templateFromV1beta1(doc map[string]any) {
	each(requestFromV1beta1, doc, "spec", "spec", "devices", "requests")
}

func templateToV1beta1(doc map[string]any) {
	each(requestToV1beta1, doc, "spec", "spec", "devices", "requests")
}

func sliceFromV1beta1(doc map[string]any) {
	each(func(device map[string]any) { lift(device, "basic") }, doc, "spec", "devices")
}

// sliceToV1beta1 gives each device a "basic", even an empty one.
func sliceToV1beta1(doc map[string]any) {
	each(func(device map[string]any) { device["basic"] = sink(device, "name") }, doc, "spec", "devices")
}

func requestFromV1beta1(request map[string]any) {
	fields := sink(request, "name", "firstAvailable")
	if fields["deviceClassName"] == "" { // always written
		delete(fields, "deviceClassName")
	}
	if len(fields) > 0 {
		request["exactly"] = fields
	}
}

func requestToV1beta1(request map[string]any) { lift(request, "exactly") }

// each calls change with the objects in the list at path.
func each(change func(map[string]any), doc map[string]any, path ...string) {
	for _, field := range path[:len(path)-1] {
		doc, _ = doc[field].(map[string]any)
	}
	list, _ := doc[path[len(path)-1]].([]any)
	for _, item := range list {
		if object, ok := item.(map[string]any); ok {
			change(object)
		}
	}
}

// lift moves the fields of the object below field to where field is.
func lift(object map[string]any, field string) {
	inner, _ := object[field].(map[string]any)
	delete(object, field)
	maps.Copy(object, inner)
}

// sink takes all fields away but those named.
func sink(object map[string]any, but ...string) map[string]any {
	inner := maps.Clone(object)
	for _, field := range but {
		delete(inner, field)
	}
	for field := range inner {
		delete(object, field)
	}
	return inner
}
