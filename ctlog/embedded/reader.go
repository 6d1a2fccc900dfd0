package embedded

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/note"

	"github.com/mayfly-ca/mayfly/ctlog/monitor"
)

// maxResource bounds one file of a log: an entry bundle of 256 entries of the largest size that a log takes is far below it.
const maxResource = 64 << 20

// Source has the files of a static-ct log (c2sp.org/static-ct-api), by their paths: checkpoint, tile/…, issuer/…. A file that is not
// there is an [fs.ErrNotExist].
type Source interface {
	Read(ctx context.Context, path string) ([]byte, error)
	String() string
}

// Dir is the directory of a log. It may be one that a process writes to.
type Dir string

// Read implements [Source].
func (d Dir) Read(_ context.Context, path string) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(d), filepath.FromSlash(path)))
}

func (d Dir) String() string { return string(d) }

// Local returns the configuration of the log in a directory, as far as it is written there.
func Local(dir string) (Config, error) {
	data, err := os.ReadFile(filepath.Join(dir, originFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("%s holds no log; name the directory of ct.embedded.dir", dir)
	}
	c := Config{Dir: dir, Origin: strings.TrimSpace(string(data))}
	if err == nil {
		err = c.Check()
	}
	return c, err
}

// OriginOf returns the origin that a log gives itself. Who has the log's key can believe it, because the key's name in the checkpoint's
// signature is made from both.
func OriginOf(ctx context.Context, s Source) (string, error) {
	raw, err := s.Read(ctx, checkpointFile)
	if err != nil {
		return "", err
	}
	origin, _, _ := strings.Cut(string(raw), "\n")
	if _, _, err := parseHead(raw, origin); err != nil {
		return "", fmt.Errorf("%s: %w", s, err)
	}
	return origin, nil
}

// Remote is a log at a URL.
type Remote struct {
	// URL is the monitoring prefix, without the slash at the end.
	URL string
	// Client is nil for one that waits 30 seconds and follows no redirects.
	Client    *http.Client
	UserAgent string
}

// NewRemote returns the log at a monitoring prefix.
func NewRemote(prefix, userAgent string) (Remote, error) {
	u, err := url.Parse(prefix)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return Remote{}, fmt.Errorf("%q is not the URL of a log; write its monitoring prefix, for example https://ca.example.com/ct", prefix)
	}
	return Remote{URL: strings.TrimRight(prefix, "/"), UserAgent: userAgent, Client: &http.Client{
		Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Read implements [Source].
func (r Remote) Read(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", r.UserAgent)
	resp, err := r.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, fmt.Errorf("%s/%s: %w", r.URL, path, fs.ErrNotExist)
	default:
		return nil, fmt.Errorf("%s/%s: status %d", r.URL, path, resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxResource+1))
	if err == nil && len(data) > maxResource {
		err = fmt.Errorf("%s/%s is longer than %d bytes", r.URL, path, maxResource)
	}
	return data, err
}

func (r Remote) String() string { return r.URL }

// Reader reads one log from its files.
type Reader struct {
	Source
	origin   string
	verifier note.Verifier
}

// NewReader returns a reader of the log with that origin and key.
func NewReader(s Source, origin string, key crypto.PublicKey) (*Reader, error) {
	v, err := verifierFor(origin, key)
	if err != nil {
		return nil, err
	}
	return &Reader{s, origin, v}, nil
}

// Head is a checkpoint whose signature by the log has been verified.
type Head struct {
	Size        uint64
	Root        []byte
	Time        time.Time // of the log's signature
	Cosignature []string  // names in the signature lines that are not the log's own; nobody has verified those
}

// Head reads the checkpoint.
func (r *Reader) Head(ctx context.Context) (Head, error) {
	raw, err := r.Read(ctx, checkpointFile)
	if err != nil {
		return Head{}, err
	}
	n, err := note.Open(raw, note.VerifierList(r.verifier))
	if err != nil {
		return Head{}, fmt.Errorf("checkpoint: the signature by %s does not verify: %w", r.origin, err)
	}
	var h Head
	if h.Size, h.Root, err = parseHead([]byte(n.Text), r.origin); err != nil {
		return Head{}, fmt.Errorf("checkpoint: %w", err)
	}
	blob, err := base64.StdEncoding.DecodeString(n.Sigs[0].Base64) // key id, timestamp, signature
	if err != nil || len(blob) < 12 {
		return Head{}, errors.New("checkpoint: the signature has no timestamp")
	}
	h.Time = time.UnixMilli(int64(min(binary.BigEndian.Uint64(blob[4:]), 1<<62))).UTC() //nolint:gosec // bounded
	for _, s := range n.UnverifiedSigs {
		h.Cosignature = append(h.Cosignature, s.Name)
	}
	return h, nil
}

// resource reads a tile or a bundle. A partial one that is not there any more is the beginning of the full one.
func (r *Reader) resource(ctx context.Context, path func(partial uint8) string, partial uint8) ([]byte, error) {
	data, err := r.Read(ctx, path(partial))
	if partial > 0 && errors.Is(err, fs.ErrNotExist) {
		if full, e := r.Read(ctx, path(0)); e == nil {
			return full, nil
		}
	}
	return data, err
}

// tile returns the hashes of a tile of a tree of some size, one after the other.
func (r *Reader) tile(ctx context.Context, level, index uint64, width int) ([]byte, error) {
	data, err := r.resource(ctx, func(p uint8) string { return layout.TilePath(level, index, p) }, uint8(width%layout.TileWidth)) //nolint:gosec // below 256
	if err == nil && len(data) > width*hashSize {
		data = data[:width*hashSize]
	}
	return data, err
}

const hashSize = 32

// bundlePath is where static-ct has what tlog-tiles calls an entry bundle.
func bundlePath(index uint64, partial uint8) string {
	return "tile/data/" + layout.NWithSuffix(0, index, partial)
}

// bundle returns the entries of one bundle, of which the tree has width.
func (r *Reader) bundle(ctx context.Context, index uint64, width int) ([]monitor.Entry, error) {
	data, err := r.resource(ctx, func(p uint8) string { return bundlePath(index, p) }, uint8(width%layout.EntryBundleWidth)) //nolint:gosec // below 256
	if err != nil {
		return nil, err
	}
	entries, err := monitor.ParseDataTile(data, index*layout.EntryBundleWidth)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", bundlePath(index, uint8(width%layout.EntryBundleWidth)), err) //nolint:gosec // as above
	}
	if len(entries) < width {
		return nil, fmt.Errorf("%s has %d entries, not %d", bundlePath(index, uint8(width%layout.EntryBundleWidth)), len(entries), width) //nolint:gosec // as above
	}
	return entries[:width], nil
}

// Entries returns the entries from index from up to to (not included) of a tree of h.Size. They are as the log has them: only
// [Reader.Check] proves that they are under the checkpoint. An error ends them.
func (r *Reader) Entries(ctx context.Context, h Head, from, to uint64) iter.Seq2[monitor.Entry, error] {
	return func(yield func(monitor.Entry, error) bool) {
		if from >= min(to, h.Size) {
			return
		}
		for ri := range layout.Range(from, min(to, h.Size)-from, h.Size) {
			entries, err := r.bundle(ctx, ri.Index, width(ri.Partial))
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(monitor.Entry{}, err)
				return
			}
			for _, e := range entries[ri.First : ri.First+ri.N] {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

func width(partial uint8) int {
	if partial == 0 {
		return layout.TileWidth
	}
	return int(partial)
}
