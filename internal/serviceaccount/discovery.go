package serviceaccount

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
)

// The paths of the discovery documents.
const (
	ConfigurationPath = "/.well-known/openid-configuration"
	KeySetPath        = "/openid/v1/jwks"
)

// configuration is what OpenID Connect Discovery 1.0 asks of an issuer that
// only issues ID tokens.
type configuration struct {
	Issuer        string   `json:"issuer"`
	KeySet        string   `json:"jwks_uri"`
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
}

// Discovery returns the handlers by which others learn to verify the tokens.
// keySetURL is where KeySetPath is reached from outside.
func (i *Issuer) Discovery(keySetURL string) (configurationHandler, keySet http.Handler, err error) {
	var algorithms []string
	for _, key := range i.keys {
		algorithms = append(algorithms, key.Algorithm)
	}
	slices.Sort(algorithms)
	config, err := json.Marshal(configuration{
		Issuer: i.URL, KeySet: keySetURL, ResponseTypes: []string{"id_token"},
		SubjectTypes: []string{"public"}, Algorithms: slices.Compact(algorithms),
	})
	if err != nil {
		return nil, nil, err
	}
	keys, err := i.KeySet()
	if err != nil {
		return nil, nil, err
	}
	return document(config, "application/json"), document(keys, "application/jwk-set+json"), nil
}

func document(body []byte, mediaType string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Header().Set("Cache-Control", "public, max-age=3600")
		_, _ = w.Write(body) // the client has gone: nobody to tell
	})
}
