package trust_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/trust"
)

// apart is a repository whose keys of root and targets are in another directory.
type apart struct {
	*testing.T
	now     time.Time
	online  trust.TUFOptions
	offline trust.TUFOptions
	first   []byte // 1.root.json
}

func newApart(t *testing.T) *apart {
	t.Helper()
	a := &apart{T: t, now: time.Now()}
	dir := t.TempDir()
	clock := func() time.Time { return a.now }
	a.offline = trust.TUFOptions{Dir: filepath.Join(dir, "offline"), Now: clock, Password: []byte("secret")}
	a.online = trust.TUFOptions{
		Dir: filepath.Join(dir, "tuf"), Offline: a.offline.Dir, Now: clock, Password: a.offline.Password,
	}
	if _, err := trust.InitTUF(a.online); err != nil {
		t.Fatal(err)
	}
	a.first = a.read(a.online.Dir, "repository/1.root.json")
	return a
}

func (a *apart) read(dir, name string) []byte {
	a.Helper()
	data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		a.Fatal(err)
	}
	return data
}

func (a *apart) open() *trust.Repository {
	a.Helper()
	r, err := trust.OpenTUF(a.online)
	if err != nil {
		a.Fatal(err)
	}
	return r
}

func (a *apart) request(contents ...[]byte) []byte {
	a.Helper()
	data, err := a.open().Request(contents...)
	if err != nil || data == nil {
		a.Fatalf("a request of %d bytes, %v", len(data), err)
	}
	return data
}

func (a *apart) review(request []byte) *trust.Review {
	a.Helper()
	v, err := trust.ReviewRequest(a.offline, request, false)
	if err != nil {
		a.Fatal(err)
	}
	return v
}

func (a *apart) sign(request []byte) []byte {
	a.Helper()
	data, err := a.review(request).Sign()
	if err != nil {
		a.Fatal(err)
	}
	return data
}

// The keys of root and targets never are in the directory that is served from. What is published is signed elsewhere,
// after a review, and clients follow; so is the renewal of both roles.
func TestTUFOfflineKeys(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	for dir, want := range map[string][]string{
		a.online.Dir: {"snapshot.pem", "timestamp.pem"}, a.offline.Dir: {"root.pem", "targets.pem"},
	} {
		keys, err := filepath.Glob(filepath.Join(dir, "keys", "*.pem"))
		var names []string
		for _, k := range keys {
			names = append(names, filepath.Base(k))
		}
		if err != nil || !slices.Equal(names, want) {
			t.Errorf("%s has the keys %q, %v", dir, names, err)
		}
	}
	one := testdata(t, "trusted_root.json")
	if _, err := a.open().Publish(one); err == nil {
		t.Error("published without the key of targets")
	}
	v := a.review(a.request(one))
	if !slices.Equal(v.Roles, []string{"targets"}) || len(v.Changes) == 0 ||
		slices.ContainsFunc(v.Changes, func(l string) bool { return !strings.HasPrefix(l, "+ ") }) {
		t.Errorf("roles %q, changes %q", v.Roles, v.Changes)
	}
	signed, err := v.Sign()
	if err != nil {
		t.Fatal(err)
	}
	r := a.open()
	if names, err := r.PublishSigned(signed); err != nil || !slices.Equal(names, []string{trust.TrustedRootTarget}) {
		t.Fatalf("%q, %v", names, err)
	}
	var s trust.Site
	s.Set(r.Files())
	web := httptest.NewServer(&s)
	t.Cleanup(web.Close)
	fetched := func(want []byte) {
		t.Helper()
		got, err := trust.Fetch(t.Context(), web.URL, a.first, "test")
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	fetched(one)
	if request, err := r.Request(one); request != nil || err != nil {
		t.Errorf("nothing changed, and a request of %d bytes, %v", len(request), err)
	}
	if _, err := r.PublishSigned(signed); err == nil || !strings.Contains(err.Error(), "is published already") {
		t.Errorf("the same response again: %v", err)
	}
	two, err := material().TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	v = a.review(a.request(two))
	if !strings.Contains(strings.Join(v.Changes, "\n"), "\n- ") &&
		!strings.HasPrefix(v.Changes[0], "- ") {
		t.Errorf("what is removed is not shown: %q", v.Changes)
	}
	if signed, err = v.Sign(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.PublishSigned(signed); err != nil {
		t.Fatal(err)
	}
	s.Set(r.Files())
	fetched(two)

	a.now = a.now.AddDate(0, 10, 0) // both roles expire soon, targets has expired
	r = a.open()
	v = a.review(a.request())
	if !slices.Equal(v.Roles, []string{"root", "targets"}) || len(v.Changes) != 0 {
		t.Errorf("roles %q, changes %q", v.Roles, v.Changes)
	}
	if signed, err = v.Sign(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.PublishSigned(signed); err != nil {
		t.Fatal(err)
	}
	for _, i := range r.Info() {
		if i.Soon || i.Role == "root" && i.Version != 2 {
			t.Errorf("%+v", i)
		}
	}
	if err := r.Check(); err != nil {
		t.Error(err)
	}
}

// A request that does not follow from what the holder of the keys knows is refused, and nothing is signed.
func TestTUFRequestRefused(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	one, two := testdata(t, "trusted_root.json"), []byte(nil)
	two, err := material().TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	old := a.request(two)
	if _, err := a.open().PublishSigned(a.sign(a.request(one))); err != nil {
		t.Fatal(err)
	}
	lost := a.sign(a.request(two))
	other := newApart(t)
	change := func(f func(repository, files map[string][]byte)) []byte {
		var in struct {
			MediaType  string            `json:"mediaType"`
			Repository map[string][]byte `json:"repository"`
			Files      map[string][]byte `json:"files"`
			Renew      []string          `json:"renew,omitempty"`
		}
		if err := json.Unmarshal(a.request(two), &in); err != nil {
			t.Fatal(err)
		}
		f(in.Repository, in.Files)
		data, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for what, c := range map[string]struct {
		request []byte
		again   bool
		want    string
	}{
		"not JSON":               {[]byte("{"), true, "not a request to sign"},
		"another document":       {one, true, "not a request to sign"},
		"another repository":     {other.request(two), true, "does not follow"},
		"an older repository":    {old, true, "rolled back"},
		"what was signed last":   {a.request(two), false, "was signed here before"},
		"nothing to sign":        {change(func(_, files map[string][]byte) { clear(files) }), true, "no change"},
		"a file of another name": {change(func(_, files map[string][]byte) { files["x.json"] = two }), true, "x.json"},
		"a file of another kind": {change(func(_, files map[string][]byte) {
			files["trusted_root.json"] = []byte("{}")
		}), true, "mediaType"},
		"a file without metadata": {change(func(r, _ map[string][]byte) {
			delete(r, "timestamp.json")
		}), true, "timestamp.json"},
		"a changed timestamp": {change(func(r, _ map[string][]byte) {
			r["timestamp.json"] = bytes.Replace(r["timestamp.json"], []byte(`"version": `), []byte(`"version": 1`), 1)
		}), true, "does not follow"},
		"a stray root": {change(func(r, _ map[string][]byte) { r["9.root.json"] = []byte("{}") }), true, "9.root.json"},
		"an unknown member": {change(func(_, files map[string][]byte) {
			files["trusted_root.json"] = bytes.Replace(two, []byte("{"), []byte(`{"toCome":1,`), 1)
		}), true, "cannot show"},
	} {
		before := snapshot(t, a.offline.Dir)
		if _, err := trust.ReviewRequest(a.offline, c.request, c.again); err == nil ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", what, err)
		}
		if !maps.Equal(before, snapshot(t, a.offline.Dir)) {
			t.Errorf("%s: the directory changed", what)
		}
	}
	if v, err := trust.ReviewRequest(a.offline, a.request(two), true); err != nil {
		t.Errorf("a lost response is not replaced: %v", err)
	} else if _, err := v.Sign(); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(filepath.Join(a.offline.Dir, "keys", "published")); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.ReviewRequest(a.offline, a.request(two), true); err == nil ||
		!strings.Contains(err.Error(), "keys/published is missing") {
		t.Errorf("without an anchor: %v", err)
	}
	if _, err := a.open().PublishSigned(lost); err != nil {
		t.Errorf("the response that was late: %v", err)
	}
}

// Of two reviews at the same time, the second that signs does not bring back the state before the first.
func TestTUFReviewsMeet(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	one := testdata(t, "trusted_root.json")
	two, err := material().TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	older := a.review(a.request(two))
	if _, err := a.open().PublishSigned(a.sign(a.request(one))); err != nil {
		t.Fatal(err)
	}
	a.sign(a.request(two))
	before := snapshot(t, a.offline.Dir)
	if _, err := older.Sign(); !errors.Is(err, trust.ErrBusy) {
		t.Errorf("%v", err)
	}
	if !maps.Equal(before, snapshot(t, a.offline.Dir)) {
		t.Error("the directory changed")
	}
}

// A response of other keys, of other versions or with other files is refused, and nothing is written.
func TestTUFResponseRefused(t *testing.T) {
	t.Parallel()
	a, other := newApart(t), newApart(t)
	one := testdata(t, "trusted_root.json")
	good := a.sign(a.request(one))
	change := func(data []byte, f func(in map[string]any)) []byte {
		return edited(t, data, f)
	}
	a.now = a.now.AddDate(0, 10, 0)
	expired, err := trust.ReviewRequest(a.offline, a.request(one), true)
	if err != nil {
		t.Fatal(err)
	}
	root, err := expired.Sign()
	if err != nil {
		t.Fatal(err)
	}
	a.now = a.now.AddDate(0, -10, 0)
	ahead := newApart(t)
	for range 2 {
		if _, err := ahead.open().PublishSigned(ahead.sign(ahead.request(one))); err != nil {
			t.Fatal(err)
		}
		one = append([]byte(" "), one...)
	}
	for what, c := range map[string]struct {
		response []byte
		want     string
	}{
		"not JSON":      {[]byte("x"), "not a response"},
		"a request":     {a.request(one), "not a response"},
		"nothing":       {change(good, func(in map[string]any) { delete(in, "targets") }), "no signed metadata"},
		"no file":       {change(good, func(in map[string]any) { delete(in, "files") }), "a client would refuse"},
		"of other keys": {other.sign(other.request(testdata(t, "trusted_root.json"))), "does not verify"},
		"no metadata": {
			change(good, func(in map[string]any) { in["targets"] = []byte("{}") }),
			"metadata of targets",
		},
		"no root":      {change(root, func(in map[string]any) { in["root"] = []byte("{}") }), "metadata of root"},
		"of the other": {ahead.sign(ahead.request(one)), "is missing"},
		"another content": {change(good, func(in map[string]any) {
			in["files"] = map[string]any{"trusted_root.json": one}
		}), "a client would refuse"},
	} {
		before := snapshot(t, a.online.Dir)
		if _, err := a.open().PublishSigned(c.response); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", what, err)
		}
		if !maps.Equal(before, snapshot(t, a.online.Dir)) {
			t.Errorf("%s: the directory changed", what)
		}
	}
	if _, err := a.open().PublishSigned(good); err != nil {
		t.Error(err)
	}
}

// An existing key is not replaced, and a failed init leaves no repository without its keys.
func TestTUFInitOffline(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	o := a.online
	o.Dir = filepath.Join(t.TempDir(), "other")
	before := snapshot(t, a.offline.Dir)
	if _, err := trust.InitTUF(o); err == nil || !strings.Contains(err.Error(), "never replaced") {
		t.Errorf("the keys of another repository: %v", err)
	}
	if !maps.Equal(before, snapshot(t, a.offline.Dir)) {
		t.Error("the keys of another repository changed")
	}
	if _, err := trust.OpenTUF(o); !errors.Is(err, trust.ErrNoRepository) {
		t.Errorf("a repository without its keys: %v", err)
	}
}

// A site serves what was verified, and for a while what came before; what does not exist yet is not cached.
func TestSite(t *testing.T) {
	t.Parallel()
	var s trust.Site
	web := httptest.NewServer(http.StripPrefix("/tuf", &s))
	t.Cleanup(web.Close)
	get := func(method, name string, status int) (http.Header, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, web.URL+"/tuf/"+name, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close() //nolint:errcheck // read to the end
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != status {
			t.Errorf("%s %s: %s, %v", method, name, response.Status, err)
		}
		return response.Header, string(body)
	}
	get("GET", "timestamp.json", http.StatusServiceUnavailable)
	s.Set(map[string][]byte{"timestamp.json": []byte("1"), "1.snapshot.json": []byte("old")})
	s.Set(map[string][]byte{
		"timestamp.json": []byte("2"), "2.snapshot.json": []byte("new"),
		"1.root.json": []byte("r"),
	})
	s.Set(map[string][]byte{
		"timestamp.json": []byte("2"), "2.snapshot.json": []byte("new"),
		"1.root.json": []byte("r"),
	})
	if header, body := get("GET", "timestamp.json", http.StatusOK); body != "2" ||
		header.Get("Cache-Control") != "no-cache" || header.Get("Content-Type") != "application/json" {
		t.Errorf("%q, %v", body, header)
	}
	if header, body := get("GET", "1.snapshot.json", http.StatusOK); body != "old" ||
		!strings.Contains(header.Get("Cache-Control"), "immutable") {
		t.Errorf("%q, %v", body, header)
	}
	if header, _ := get("GET", "2.root.json", http.StatusNotFound); header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", header)
	}
	get("HEAD", "1.root.json", http.StatusOK)
	get("POST", "timestamp.json", http.StatusMethodNotAllowed)
	get("GET", "../keys/timestamp.pem", http.StatusNotFound)
	s.Set(map[string][]byte{"timestamp.json": []byte("3")})
	get("GET", "1.snapshot.json", http.StatusNotFound)
	get("GET", "2.snapshot.json", http.StatusOK)
}

// Neither a request nor a response that others made harms the reader, and no response without our signature is
// published.
func FuzzRequest(f *testing.F) {
	dir := f.TempDir()
	o := trust.TUFOptions{Dir: filepath.Join(dir, "tuf"), Offline: filepath.Join(dir, "offline")}
	if _, err := trust.InitTUF(o); err != nil {
		f.Fatal(err)
	}
	r, err := trust.OpenTUF(o)
	if err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join("testdata", "trusted_root.json"))
	if err != nil {
		f.Fatal(err)
	}
	request, err := r.Request(data)
	if err != nil {
		f.Fatal(err)
	}
	v, err := trust.ReviewRequest(trust.TUFOptions{Dir: o.Offline}, request, false)
	if err != nil {
		f.Fatal(err)
	}
	signed, err := v.Sign()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(request)
	f.Add(signed)
	f.Fuzz(func(t *testing.T, data []byte) {
		if v, err := trust.ReviewRequest(trust.TUFOptions{Dir: o.Offline}, data, true); err == nil &&
			len(v.Roles) == 0 {
			t.Error("a request for nothing is accepted")
		}
		if bytes.Equal(data, signed) {
			return
		}
		r, err := trust.OpenTUF(o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.PublishSigned(data); err == nil && r.Check() != nil {
			t.Error("clients refuse what was published")
		}
	})
}

// Clients that do not read the trusted root find certificates and keys by the custom metadata of targets. They follow
// the trusted root: what it loses, they lose.
func TestTUFKeyTargets(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	m := material()
	m.Rekor = []trust.Log{
		{Log: loglist.Log{URL: "https://a", Origin: "a", Key: pki.NewKey(pki.P256).Public()}},
		{Log: loglist.Log{URL: "https://b", Origin: "b", Key: pki.NewKey(pki.Ed25519).Public()}},
		{Log: loglist.Log{
			URL: "https://c", Origin: "c", Key: pki.NewKey(pki.P256).Public(),
			Window: loglist.Window{NotAfter: a.now.Add(-time.Hour)},
		}},
	}
	publish := func(m trust.Material) map[string]string {
		t.Helper()
		data, err := m.TrustedRoot()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.open().PublishSigned(a.sign(a.request(data))); err != nil {
			t.Fatal(err)
		}
		names, err := filepath.Glob(filepath.Join(a.online.Dir, "repository", "*.targets.json"))
		if err != nil {
			t.Fatal(err)
		}
		var in struct {
			Signed struct {
				Version int
				Targets map[string]struct {
					Custom struct {
						Sigstore struct{ Usage, Status string }
					}
				}
			}
		}
		out, newest := map[string]string{}, 0
		for _, name := range names {
			in.Signed.Targets = nil
			if err := json.Unmarshal(a.read("", name), &in); err != nil {
				t.Fatal(err)
			}
			if in.Signed.Version < newest {
				continue
			}
			newest = in.Signed.Version
			clear(out)
			for name, target := range in.Signed.Targets {
				out[name] = target.Custom.Sigstore.Usage + " " + target.Custom.Sigstore.Status
			}
		}
		return out
	}
	want := map[string]string{
		"trusted_root.json": " ", "fulcio.crt.pem": "Fulcio Active", "fulcio_v1.crt.pem": "Fulcio Active",
		"ctfe.pub":   "CTFE Active",
		"ctfe_2.pub": "CTFE Active", "ctfe_3.pub": "CTFE Active",
		"rekor.pub": "Rekor Active", "rekor_2.pub": "Rekor Expired",
	}
	if got := publish(m); !maps.Equal(got, want) {
		t.Errorf("%q", got)
	}
	m.Rekor = nil
	delete(want, "rekor.pub")
	delete(want, "rekor_2.pub")
	if got := publish(m); !maps.Equal(got, want) {
		t.Errorf("without a log of signatures: %q", got)
	}
}
