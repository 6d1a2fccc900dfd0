package trust

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/fetcher"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"
)

// fetchTimeout bounds each download.
const fetchTimeout = 20 * time.Second

// Fetch gets the trusted root out of a TUF repository, which must follow from root, the root.json that the caller trusts.
func Fetch(ctx context.Context, repository string, root []byte, userAgent string) ([]byte, error) {
	u, err := url.Parse(repository)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		return nil, fmt.Errorf("%q is not the URL of a TUF repository; write https://HOST/PATH (http on loopback only)", repository)
	}
	f := fetcher.NewDefaultFetcher()
	f.SetHTTPClient(withContext{ctx, &http.Client{Timeout: fetchTimeout}})
	f.SetHTTPUserAgent(userAgent)
	f.SetRetry(time.Second, 2)
	data, err := source{repository, root, f}.target(rootTarget)
	if err != nil {
		return nil, fmt.Errorf("TUF repository %s: %w", repository, err)
	}
	return data, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// withContext ends downloads with the caller's context, which the library does not know.
type withContext struct {
	ctx    context.Context //nolint:containedctx // the library's interface has no place for it
	client *http.Client
}

// Do implements the client of the library.
func (c withContext) Do(r *http.Request) (*http.Response, error) {
	return c.client.Do(r.WithContext(c.ctx)) //nolint:gosec // the caller names the repository
}

// source is a repository as clients see it: where it is, the root that they trust, and how they download.
type source struct {
	url     string
	root    []byte
	fetcher fetcher.Fetcher
}

// target follows the repository from the root on and returns a file of it.
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

// follow verifies the metadata of the repository as every client does.
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
	return u, u.Refresh()
}

// Check follows the repository from its first root on, as a client that was set up long ago would, and reads every file of it.
func (r *Repository) Check() error {
	first, err := os.ReadFile(r.served("1.root.json"))
	if err != nil {
		return err
	}
	u, err := source{"http://repository.invalid", first, onDisk{r}}.follow()
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

// onDisk downloads from the directory that is served.
type onDisk struct{ r *Repository }

// DownloadFile implements the fetcher of the library.
func (d onDisk) DownloadFile(path string, limit int64, _ time.Duration) ([]byte, error) {
	name := strings.TrimPrefix(path, "http://repository.invalid/")
	if !filepath.IsLocal(name) {
		return nil, fmt.Errorf("%q is not in the repository", path)
	}
	data, err := os.ReadFile(d.r.served(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &metadata.ErrDownloadHTTP{StatusCode: http.StatusNotFound, URL: path}
	case err == nil && int64(len(data)) > limit:
		return nil, &metadata.ErrDownloadLengthMismatch{Msg: "longer than the metadata says"}
	}
	return data, err
}
