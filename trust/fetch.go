package trust

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/fetcher"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/httpclient"
)

// fetchTimeout is the time limit of each download.
const fetchTimeout = 20 * time.Second

// Mirror is a TUF repository that others serve.
type Mirror struct {
	URL string
	// Root is the root.json from which the repository must verify.
	Root      []byte
	UserAgent string
}

// Fetch downloads the trusted root from a TUF repository. The repository must verify from root, the root.json that the
// caller trusts.
func Fetch(ctx context.Context, repository string, root []byte, userAgent string) ([]byte, error) {
	s, err := Mirror{repository, root, userAgent}.source(ctx)
	if err != nil {
		return nil, err
	}
	data, err := s.target(rootTarget)
	if err != nil {
		return nil, fmt.Errorf("TUF repository %s: %w", repository, err)
	}
	return data, nil
}

// source returns the repository as a client sees it.
func (m Mirror) source(ctx context.Context) (source, error) {
	u, err := url.Parse(m.URL)
	if err != nil || !fetchable(u) {
		return source{}, fmt.Errorf("%q is not the URL of a TUF repository; write https://HOST/PATH (http on loopback "+
			"only)", m.URL)
	}
	f := fetcher.NewDefaultFetcher()
	f.SetHTTPClient(withContext{ctx, httpclient.New(httpclient.Options{
		Timeout: fetchTimeout, Proxy: http.ProxyFromEnvironment, UserAgent: m.UserAgent, Redirect: checkRedirect,
	})})
	f.SetHTTPUserAgent(m.UserAgent)
	f.SetRetry(time.Second, 2)
	return source{url: m.URL, root: m.Root, fetcher: f}, nil
}

// fetchable reports whether u may be requested: https, or http on loopback.
func fetchable(u *url.URL) bool {
	return hostname.IsConfidential(u)
}

// maxRedirects bounds the redirects of one download.
const maxRedirects = 3

func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects || !fetchable(r.URL) {
		return fmt.Errorf("the repository redirects to %s://%s; redirects are followed to https only, %d at most",
			r.URL.Scheme, r.URL.Host, maxRedirects)
	}
	return nil
}

// withContext adds the caller's context to the downloads of the library, which has no context parameter.
type withContext struct {
	ctx    context.Context //nolint:containedctx // the library's interface has no context parameter
	client *http.Client
}

// Do implements the HTTP client interface of the library.
func (c withContext) Do(r *http.Request) (*http.Response, error) {
	return c.client.Do(r.WithContext(c.ctx)) //nolint:gosec // the caller names the repository
}

// source is a repository as a client sees it: its URL, the trusted root.json, and the downloader.
type source struct {
	url     string
	root    []byte
	fetcher fetcher.Fetcher
	at      *time.Time // the reference time; nil is time.Now()
}

// target verifies the repository from the root and returns a target file.
func (s source) target(name string) ([]byte, error) {
	u, err := s.follow()
	if err != nil {
		return nil, err
	}
	info, err := u.GetTargetInfo(name)
	if err != nil {
		return nil, err
	}
	_, data, err := u.DownloadTarget(info, "", "")
	return data, err
}

// follow verifies the metadata of the repository as TUF clients do.
func (s source) follow() (*updater.Updater, error) {
	cfg, err := config.New(s.url, s.root)
	if err != nil {
		return nil, err
	}
	cfg.Fetcher, cfg.DisableLocalCache = s.fetcher, true
	u, err := updater.New(cfg)
	if err != nil {
		return nil, err
	}
	if s.at != nil {
		u.UnsafeSetRefTime(*s.at)
	}
	return u, u.Refresh()
}

// Check reads the repository again and returns an error if it is invalid, as [InspectTUF] does.
func (r *Repository) Check() error {
	_, err := InspectTUF(r.o)
	return err
}

// accepts returns an error if a client that was initialised with the first root would refuse the files at the given
// time. At the zero time, no metadata has expired.
func (r *Repository) accepts(files map[string][]byte, at time.Time) error {
	u, err := source{url: inMemoryURL, root: files[rootFile(1)], fetcher: inMemory(files), at: &at}.follow()
	if err != nil {
		return fmt.Errorf("a client would refuse the repository: %w", err)
	}
	for name, info := range u.GetTopLevelTargets() {
		if _, _, err := u.DownloadTarget(info, "", ""); err != nil {
			return fmt.Errorf("a client would refuse %s: %w", name, err)
		}
	}
	return nil
}

const inMemoryURL = "http://repository.invalid"

// inMemory serves files by their names in the repository.
type inMemory map[string][]byte

// DownloadFile implements the fetcher interface of the library.
func (m inMemory) DownloadFile(path string, limit int64, _ time.Duration) ([]byte, error) {
	data, ok := m[strings.TrimPrefix(path, inMemoryURL+"/")]
	switch {
	case !ok:
		return nil, &metadata.ErrDownloadHTTP{StatusCode: http.StatusNotFound, URL: path}
	case int64(len(data)) > limit:
		return nil, &metadata.ErrDownloadLengthMismatch{Msg: "the file exceeds the size limit of clients"}
	}
	return data, nil
}
