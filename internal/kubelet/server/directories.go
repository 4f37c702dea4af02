package server

import (
	"net/http"
)

// Directories makes and removes the volumes that the cluster keeps on this
// node.
type Directories interface {
	Make(name string) (path string, err error)
	Remove(name string) error
}

// madeVolume is the answer to a request for a volume.
type madeVolume struct {
	Path string `json:"path"`
}

// makeVolume answers PUT /localVolumes/{name}: it makes a directory and tells
// where it is.
func (s *Server) makeVolume(w http.ResponseWriter, r *http.Request) {
	path, err := s.Directories.Make(r.PathValue("name"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.json(w, madeVolume{path})
}

// removeVolume answers DELETE /localVolumes/{name}.
func (s *Server) removeVolume(w http.ResponseWriter, r *http.Request) {
	if err := s.Directories.Remove(r.PathValue("name")); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
