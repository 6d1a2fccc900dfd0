package tlog

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const checkpointFile = "checkpoint"

// readable matches the public paths of a log, and no others: keys and state are in the same directory.
var readable = regexp.MustCompile(
	`^/(checkpoint|issuer/[0-9a-f]{64}|tile/(data|entries|[0-5])/(x[0-9]{3}/)*[0-9]{3}(\.p/[0-9]{1,3})?)$`)

// files serves the read path of one log.
type files struct {
	dir     string
	answers map[string]http.Handler // by path
	// checkpoint returns what to serve instead of the file, or nil. Optional.
	checkpoint func() []byte
}

// Handler serves the read path: /checkpoint, /tile/… (c2sp.org/tlog-tiles), /issuer/<sha256 hex>
// (c2sp.org/static-ct-api) and the further answers of [Options]. It accepts no submissions.
func (l *Log) Handler() http.Handler {
	f := files{dir: l.dir, answers: l.answers}
	if l.cosigner != nil {
		f.checkpoint = l.cosigner.checkpoint
	}
	return f
}

// ServeHTTP implements [http.Handler].
func (f files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*") // a log is public, and some monitors run in browsers
	h.Set("X-Content-Type-Options", "nosniff")
	answer := f.answers[r.URL.Path]
	switch {
	case r.Method == http.MethodOptions:
		h.Set("Access-Control-Allow-Methods", "GET, HEAD")
		h.Set("Access-Control-Allow-Headers", "Range, If-Modified-Since")
		h.Set("Access-Control-Max-Age", "86400")
		w.WriteHeader(http.StatusNoContent)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		h.Set("Allow", "GET, HEAD")
		refuse(w, "this log is read-only", http.StatusMethodNotAllowed)
	case answer != nil:
		answer.ServeHTTP(w, r)
	case !readable.MatchString(r.URL.Path):
		refuse(w, "404 page not found", http.StatusNotFound)
	default:
		f.serveFile(w, r)
	}
}

// refuse answers with an error that must not be cached: a missing file may be written later.
func refuse(w http.ResponseWriter, text string, code int) {
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, text, code)
}

// serveFile answers with one file. A checkpoint must not be cached; a file that is named after its content or its place
// in the tree may be cached forever; a partial tile may be cached for a day, because the log removes it once the full
// tile exists (c2sp.org/tlog-tiles, "Partial Tiles").
func (f files) serveFile(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	switch path := r.URL.Path; {
	case path == "/"+checkpointFile:
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("Cache-Control", "no-store")
		if f.checkpoint != nil {
			if data := f.checkpoint(); data != nil {
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
				return
			}
		}
	case strings.HasPrefix(path, "/issuer/"):
		h.Set("Content-Type", "application/pkix-cert")
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	default:
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
		if strings.Contains(path, ".p/") {
			h.Set("Cache-Control", "public, max-age=86400, immutable")
		}
	}
	file, err := os.Open(filepath.Join(f.dir, filepath.FromSlash(r.URL.Path))) //nolint:gosec // the path has passed readable
	if err != nil {
		h.Del("Content-Type")
		if !os.IsNotExist(err) { // the file may exist
			refuse(w, "the file cannot be read", http.StatusServiceUnavailable)
			return
		}
		refuse(w, "404 page not found", http.StatusNotFound)
		return
	}
	defer file.Close() //nolint:errcheck // only read
	st, err := file.Stat()
	if err != nil || !st.Mode().IsRegular() {
		h.Del("Content-Type")
		refuse(w, "404 page not found", http.StatusNotFound)
		return
	}
	at := st.ModTime()
	if r.URL.Path == "/"+checkpointFile {
		at = time.Time{} // two checkpoints of one second would have the same Last-Modified
	}
	http.ServeContent(w, r, "", at, file)
}
