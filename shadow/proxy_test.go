package shadow_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/shadow"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// Two CAs of one configuration are equal in each form of the API, for certificates and for refusals.
func TestEqual(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.run(site(t, w.upstream), nil)
	client := dial(t, p.url)
	const each = 10
	for _, r := range w.requests[:each] {
		if got := post(t, p.url, r.JSON); got.status != http.StatusOK {
			t.Fatalf("%d %s", got.status, got.body)
		}
		if _, err := client.CreateSigningCertificate(t.Context(), r.Proto); err != nil {
			t.Fatal(err)
		}
		old, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/api/v1/signingCert",
			bytes.NewReader(legacyBody(t, r)))
		must(t, err)
		old.Header.Set("Authorization", "Bearer "+r.Proto.GetCredentials().GetOidcIdentityToken())
		if got := send(t, old); got.status != http.StatusCreated {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
	post(t, p.url, []byte("{}"))
	post(t, p.url, []byte("{"))
	post(t, p.url, bytes.Repeat([]byte(" "), 300<<10))
	nothing := &fulciopb.CreateSigningCertificateRequest{}
	if _, err := client.CreateSigningCertificate(t.Context(), nothing); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
	if _, err := client.GetTrustBundle(t.Context(), &fulciopb.GetTrustBundleRequest{}); err != nil { // not compared
		t.Error(err)
	}
	r := p.report()
	if r.Equal != 3*each+4 || r.Compared != r.Equal || !r.Agrees() || len(r.NotCompared) != 0 {
		t.Errorf("%+v", r)
	}
	want := map[shadow.API]int64{shadow.RESTv2: each + 3, shadow.RESTv1: each, shadow.GRPC: each + 1}
	if d := cmp.Diff(want, r.APIs); d != "" {
		t.Error(d)
	}
}

// plants are ways in which an upstream answers differently, by the name that a request carries.
func plants(w *world) map[string]struct {
	change func(body []byte) (int, []byte)
	want   string // kind and field, in the order of the report
} {
	certificate := func(change func(*x509.Certificate)) func([]byte) (int, []byte) {
		return func(b []byte) (int, []byte) { return http.StatusOK, w.resign(b, change) }
	}
	extension := func(id asn1.ObjectIdentifier, change func(*pkix.Extension)) func([]byte) (int, []byte) {
		return certificate(func(c *x509.Certificate) {
			for i := range c.ExtraExtensions {
				if c.ExtraExtensions[i].Id.Equal(id) {
					change(&c.ExtraExtensions[i])
				}
			}
		})
	}
	arc := func(n int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, n} }
	spoil := func(e *pkix.Extension) { e.Value = append([]byte{}, e.Value...); e.Value[len(e.Value)-1] ^= 1 }
	type plant = struct {
		change func(body []byte) (int, []byte)
		want   string
	}
	return map[string]plant{
		"refused": {func([]byte) (int, []byte) {
			return 400, []byte(`{"code":3,"message":"There was an error processing the identity token","details":[]}`)
		}, "status InvalidArgument, own: OK"},
		"failed": {func([]byte) (int, []byte) {
			return 500, []byte(`{"code":13,"message":"secret@example.com","details":[]}`)
		}, "status Internal, own: OK"},
		"garbage": {
			func([]byte) (int, []byte) { return 200, []byte("<html>") },
			"unreadable the body is no certificate of the API",
		},
		"no certificate": {
			func([]byte) (int, []byte) { return 200, []byte("{}") },
			"unreadable the answer has no certificate",
		},
		"other status": {func(b []byte) (int, []byte) { return 202, b }, "http 202, own: 200"},
		"san": {
			extension(asn1.ObjectIdentifier{2, 5, 29, 17}, spoil),
			"san 2.5.29.17 (subject alternative name)",
		},
		"critical": {
			extension(asn1.ObjectIdentifier{2, 5, 29, 17}, func(e *pkix.Extension) { e.Critical = !e.Critical }),
			"san 2.5.29.17 (subject alternative name)",
		},
		"issuer extension": {extension(arc(8), spoil), "identity 1.3.6.1.4.1.57264.1.8 (issuer)"},
		"another extension": {certificate(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: arc(23), Value: []byte{12, 1, 'x'}})
		}), "extension 1.3.6.1.4.1.57264.1.23 (deployment-environment)"},
		"absent extension": {certificate(func(c *x509.Certificate) {
			c.ExtraExtensions = slices.DeleteFunc(c.ExtraExtensions,
				func(e pkix.Extension) bool { return e.Id.Equal(arc(1)) })
		}), "identity 1.3.6.1.4.1.57264.1.1 (issuer-v1)"},
		"usage": {extension(asn1.ObjectIdentifier{2, 5, 29, 15}, func(e *pkix.Extension) {
			e.Value = []byte{3, 2, 6, 0xc0}
		}), "extension 2.5.29.15"},
		"no subject key": {certificate(func(c *x509.Certificate) {
			c.ExtraExtensions = slices.DeleteFunc(c.ExtraExtensions, func(e pkix.Extension) bool {
				return e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 14})
			})
		}), "extension 2.5.29.14 (subject key identifier)"},
		"key": {certificate(func(c *x509.Certificate) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			must(w.t, err)
			c.PublicKey = key.Public()
		}), "key"},
		"subject": {certificate(func(c *x509.Certificate) { c.Subject.CommonName = "x" }), "subject"},
		"longer":  {certificate(func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) }), "validity"},
		"earlier": {certificate(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = c.NotBefore.Add(-time.Hour), c.NotAfter.Add(-time.Hour)
		}), "not_before"},
		"later": {certificate(func(c *x509.Certificate) { // as Fulcio's
			c.NotBefore, c.NotAfter = c.NotBefore.Add(30*time.Second), c.NotAfter.Add(30*time.Second)
		}), "not_before"},
		"sct": {certificate(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{
				Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: []byte{4, 0},
			})
		}), "sct"},
		"short chain": {func(b []byte) (int, []byte) { return 200, w.shorten(b) }, "chain certificates"},
		"signature": {func(b []byte) (int, []byte) {
			return 200, w.spoil(b)
		}, "signature"},
	}
}

// planted serves h, and answers differently to requests with the name of a plant in their header.
func planted(w *world, h http.Handler, fulcio bool) http.Handler {
	all := plants(w)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		recorded := httptest.NewRecorder()
		one, ok := all[r.Header.Get("Plant")]
		if !ok && !fulcio {
			h.ServeHTTP(rw, r)
			return
		}
		h.ServeHTTP(recorded, r)
		code, body := recorded.Code, recorded.Body.Bytes()
		if ok {
			code, body = one.change(body)
		}
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(code)
		_, _ = rw.Write(body)
	})
}

// Each planted difference is found, alone, with its kind and its field, and without values.
func TestPlantedDifferences(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.run(site(t, planted(w, w.upstream, false)), nil)
	var want []string
	for name, one := range plants(w) {
		want = append(want, one.want)
		post(t, p.url, w.requests[0].JSON, "Plant", name)
	}
	for _, r := range w.requests {
		post(t, p.url, r.JSON)
	}
	r := p.report()
	if r.Equal != int64(len(w.requests)) || r.Different+r.Explained != int64(len(want)) {
		t.Errorf("%d equal, %d different, %d explained", r.Equal, r.Different, r.Explained)
	}
	var got []string
	for _, row := range r.Rows {
		for range row.Count {
			got = append(got, strings.TrimSpace(string(row.Kind)+" "+row.Field))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	// Nothing secret and nobody's name is stored.
	secrets := []string{
		"user0", "example.com", "secret@", w.requests[0].Proto.GetCredentials().GetOidcIdentityToken()[:40],
	}
	must(t, filepath.WalkDir(w.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		for _, s := range secrets {
			if bytes.Contains(data, []byte(s)) {
				t.Errorf("%s has %q", name, s)
			}
		}
		return err
	}))
	var text, page bytes.Buffer
	must(t, r.Write(&text))
	must(t, r.WriteHTML(&page))
	for _, part := range []string{"not_before", "digest:", "different", "validity"} {
		if !strings.Contains(text.String(), part) || !strings.Contains(page.String(), part) {
			t.Errorf("%q is missing in\n%s\n%s", part, &text, &page)
		}
	}
}

// Differences between Fulcio and mayfly are explained, unless the upstream is a mayfly.
func TestExplained(t *testing.T) {
	t.Parallel()
	for _, fulcio := range []bool{true, false} {
		t.Run(fmt.Sprint(fulcio), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := w.run(site(t, planted(w, w.upstream, fulcio)), func(o *shadow.Options) { o.Values = true })
			process.Poll(t, "the upstream is ready", func() bool { return get(t, p.admin+"/readyz").status == 200 })
			for _, name := range []string{"later", "no subject key", "failed"} {
				post(t, p.url, w.requests[0].JSON, "Plant", name)
			}
			r := p.report()
			if want := map[bool]int64{true: 3, false: 0}[fulcio]; r.Explained != want || r.Explained+r.Different != 3 {
				t.Errorf("%d explained, %d different: %+v", r.Explained, r.Different, r.Rows)
			}
		})
	}
}

func get(t testing.TB, url string) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	must(t, err)
	return send(t, r)
}

// What the upstream gets is what the client sent, and the other way round.
func TestUnchanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	type seen struct {
		Method, Target, Host string
		Header               http.Header
		Body                 string
	}
	got := make(chan seen, 1)
	up := site(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path != "/api/v2/configuration" {
			got <- seen{r.Method, r.RequestURI, r.Host, r.Header, string(body)}
		}
		rw.Header()["X-Odd"] = []string{"b", "a"}
		rw.Header().Set("Trailer", "X-End")
		rw.Header().Set("Date", "yesterday")
		rw.WriteHeader(http.StatusTeapot)
		_, _ = rw.Write([]byte("ans\x00wer"))
		rw.Header().Set("X-End", "over")
	}))
	p := w.run(up, nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	must(t, err)
	defer conn.Close()
	from := bufio.NewReader(conn)
	for _, target := range []string{"/api/v2/signingCert?a=%zz;b&c", "/x//y/../%2e%2F?q", "/api/v1/signingCert"} {
		_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: ca.example.com\r\nX-Forwarded-For: 192.0.2.1\r\n"+
			"Forwarded: for=x\r\nx-dup: 1\r\nX-Dup: 2\r\nContent-Length: 5\r\n\r\nbo\x00dy", target)
		must(t, err)
		s := <-got
		want := seen{"POST", target, "ca.example.com", http.Header{
			"X-Forwarded-For": {"192.0.2.1"}, "Forwarded": {"for=x"}, "X-Dup": {"1", "2"}, "Content-Length": {"5"},
		}, "bo\x00dy"}
		if d := cmp.Diff(want, s); d != "" {
			t.Error(d)
		}
		response, err := http.ReadResponse(from, nil)
		must(t, err)
		body, err := io.ReadAll(response.Body)
		must(t, err)
		must(t, response.Body.Close())
		if response.StatusCode != http.StatusTeapot || string(body) != "ans\x00wer" ||
			response.Trailer.Get("X-End") != "over" || response.Header.Get("Date") != "yesterday" ||
			!slices.Equal(response.Header["X-Odd"], []string{"b", "a"}) {
			t.Errorf("%s %q %v %v", response.Status, body, response.Header, response.Trailer)
		}
	}
}

// A client gets an error of the API if the upstream is dead, and never a whole answer if the upstream's breaks off.
func TestUpstreamFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, dead.Close())
	nobody, err := shadow.ParseSite("http://"+dead.Addr().String(), "")
	must(t, err)
	p := w.run(nobody, nil)
	if got := post(t, p.url, w.requests[0].JSON); got.status != http.StatusServiceUnavailable ||
		!strings.Contains(string(got.body), `"code":14`) || got.header.Get("Retry-After") != "1" {
		t.Errorf("%d %s", got.status, got.body)
	}
	if _, err := dial(t, p.url).CreateSigningCertificate(t.Context(), w.requests[0].Proto); status.Code(err) !=
		codes.Unavailable {
		t.Error(err)
	}
	if got := get(t, p.admin+"/readyz"); got.status != http.StatusServiceUnavailable {
		t.Errorf("%d %s", got.status, got.body)
	}
	if r := p.report(); r.NotCompared[shadow.Failed] != 2 || r.Compared != 0 {
		t.Errorf("%+v", r)
	}

	w.dir += "2"
	p = w.run(site(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v2/configuration" {
			return
		}
		rw.Header().Set("Content-Length", "100")
		_, _ = rw.Write([]byte("half"))
		_ = http.NewResponseController(rw).Flush()
		panic(http.ErrAbortHandler)
	})), nil)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/api/v2/signingCert",
		bytes.NewReader(w.requests[0].JSON))
	must(t, err)
	if response, err := http.DefaultClient.Do(r); err == nil {
		body, err := io.ReadAll(response.Body)
		must(t, response.Body.Close())
		if len(body) > len("half") || err == nil {
			t.Errorf("%q, %v", body, err)
		}
	}
	if r := p.report(); r.NotCompared[shadow.Failed] != 1 {
		t.Errorf("%+v", r)
	}
}

// A comparison that hangs or panics changes nothing for clients; what does not fit into the queue is dropped, and
// counted.
func TestOwnSideFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good, release := w.own.Handler, make(chan struct{})
	w.own.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Own") {
		case "panic":
			panic("planted")
		case "hang":
			<-release
		}
		good.ServeHTTP(rw, r)
	})
	p := w.run(site(t, w.upstream), func(o *shadow.Options) { o.Queue = 64 << 10 })
	for range 3 {
		if got := post(t, p.url, w.requests[0].JSON, "Own", "panic"); got.status != http.StatusOK {
			t.Fatal(got.status)
		}
	}
	const hanging = 100
	for i := range hanging {
		if got := post(t, p.url, w.requests[i%40].JSON, "Own", "hang"); got.status != http.StatusOK {
			t.Fatal(got.status)
		}
	}
	metrics := string(get(t, p.admin+"/metrics").body)
	close(release)
	r := p.report()
	dropped := r.NotCompared[shadow.Dropped]
	if r.NotCompared[shadow.Panicked] != 3 || dropped == 0 || dropped+r.Equal != hanging {
		t.Errorf("%+v", r)
	}
	for _, line := range []string{
		`mayfly_shadow_comparisons_total{outcome="panicked"} 3`,
		fmt.Sprintf(`mayfly_shadow_comparisons_total{outcome="dropped"} %d`, dropped),
		fmt.Sprintf(`mayfly_shadow_requests_total{api="rest",by="upstream"} %d`, hanging+3),
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("%s is missing in\n%s", line, metrics)
		}
	}
}

// marked adds the name of a CA to its answers.
func marked(name string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Answered-By", name)
		h.ServeHTTP(rw, r)
	})
}

// fail answers as a candidate that fails: with the status 503, not at all, or with one half of an answer.
func fail(rw http.ResponseWriter, how string) {
	switch how {
	case "503":
		rw.WriteHeader(http.StatusServiceUnavailable)
		return
	case "half":
		rw.Header().Set("Content-Length", "5000")
		_, _ = rw.Write([]byte("{"))
		_ = http.NewResponseController(rw).Flush()
	}
	panic(http.ErrAbortHandler)
}

// However the candidate fails, the client gets the whole answer of the upstream.
func TestCandidateFails(t *testing.T) {
	t.Parallel()
	for how, cause := range map[string]string{"503": "server", "broken": "connection", "half": "connection"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			candidate := site(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fail(rw, how) }))
			must(t, os.MkdirAll(w.dir, 0o700))
			must(t, shadow.WritePlan(w.dir, shadow.Plan{Share: 10000}))
			p := w.run(site(t, marked("upstream", w.upstream)), func(o *shadow.Options) { o.Candidate = &candidate })
			metric := func(line string) bool { return strings.Contains(string(get(t, p.admin+"/metrics").body), line) }
			process.Poll(t, "the plan is in force", func() bool { return metric("mayfly_shadow_candidate_share 1\n") })
			got := post(t, p.url, w.requests[0].JSON)
			if got.status != http.StatusOK || got.header.Get("Answered-By") != "upstream" {
				t.Errorf("%d by %q: %s", got.status, got.header.Get("Answered-By"), got.body)
			}
			if _, err := dial(t, p.url).CreateSigningCertificate(t.Context(), w.requests[1].Proto); err != nil {
				t.Error(err)
			}
			if line := fmt.Sprintf("mayfly_shadow_candidate_failures_total{cause=%q} 2\n", cause); !metric(line) {
				t.Errorf("%q is missing", line)
			}
			if r := p.report(); r.Equal != 2 || r.Compared != 2 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// The candidate serves those whom the plan selects. When it fails, the upstream answers. The way back is immediate.
func TestServe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mode := make(chan string, 1)
	mode <- ""
	up := w.upstream
	candidate := site(t, marked("candidate", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		m := <-mode
		mode <- m
		if m == "" {
			up.ServeHTTP(rw, r)
			return
		}
		fail(rw, m)
	})))
	p := w.run(site(t, marked("upstream", up)), func(o *shadow.Options) { o.Candidate = &candidate })
	client := dial(t, p.url)
	by := func(r process.Request) string {
		got := post(t, p.url, r.JSON)
		if got.status != http.StatusOK {
			t.Errorf("%d %s", got.status, got.body)
		}
		if _, err := client.CreateSigningCertificate(t.Context(), r.Proto); err != nil {
			t.Error(err)
		}
		return got.header.Get("Answered-By")
	}
	served := func() (out []string) {
		for i, r := range w.requests {
			if by(r) == "candidate" {
				out = append(out, fmt.Sprint(i))
			}
		}
		return out
	}
	plan := func(plan shadow.Plan) {
		must(t, shadow.WritePlan(w.dir, plan))
		share := fmt.Sprintf("mayfly_shadow_candidate_share %v\n", float64(plan.Share)/10000)
		process.Poll(t, "the plan is in force", func() bool {
			return strings.Contains(string(get(t, p.admin+"/metrics").body), share)
		})
	}
	if n := len(served()); n != 0 {
		t.Errorf("%d are served without a plan", n)
	}
	plan(shadow.Plan{Share: 3000})
	some := served()
	if len(some) < 3 || len(some) > 25 {
		t.Errorf("%d of 40 for 30 %%", len(some))
	}
	if again := served(); !slices.Equal(some, again) {
		t.Errorf("%v, then %v", some, again)
	}
	plan(shadow.Plan{Share: 6000})
	more := served()
	for _, i := range some {
		if !slices.Contains(more, i) {
			t.Errorf("%s left the candidate when the share grew", i)
		}
	}
	plan(shadow.Plan{Share: 10000})
	if n := len(served()); n != 40 {
		t.Errorf("%d of 40", n)
	}
	for _, m := range []string{"503", "broken", "half"} {
		<-mode
		mode <- m
		if n := len(served()); n != 0 {
			t.Errorf("%s: the candidate answered %d", m, n)
		}
	}
	if m := string(get(t, p.admin+"/metrics").body); !strings.Contains(m,
		`mayfly_shadow_candidate_failures_total{cause="resting"}`) || strings.Contains(m, `{cause="resting"} 0`) {
		t.Errorf("a candidate that fails is asked each time:\n%s", m)
	}
	<-mode
	mode <- ""
	plan(shadow.Plan{})
	if n := len(served()); n != 0 {
		t.Errorf("%d are served after the way back", n)
	}
	if r := p.report(); r.NotCompared[shadow.Served] == 0 || r.Different != 0 {
		t.Errorf("%+v", r)
	}
}

// A stop ends the requests that run first.
func TestStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	p := w.run(site(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			close(arrived)
			<-release
		}
		w.upstream.ServeHTTP(rw, r)
	})), nil)
	answered := make(chan int)
	go func() { answered <- post(t, p.url, w.requests[0].JSON).status }()
	<-arrived
	p.cancel()
	close(release)
	if got := <-answered; got != http.StatusOK {
		t.Error(got)
	}
	if r := p.report(); r.Equal != 1 {
		t.Errorf("%+v", r)
	}
}

// With ForwardedFor, upstream and candidate learn the address of the client, after what the client said itself.
func TestForwardedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	seen := make(chan []string, 1)
	up := site(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			seen <- r.Header["X-Forwarded-For"]
		}
		w.upstream.ServeHTTP(rw, r)
	}))
	p := w.run(up, func(o *shadow.Options) { o.ForwardedFor, o.Candidate = true, &up })
	for _, plan := range []shadow.Plan{{}, {Share: 10000}} {
		p.SetPlan(plan)
		post(t, p.url, w.requests[0].JSON, "X-Forwarded-For", "192.0.2.1")
		if got := <-seen; !slices.Equal(got, []string{"192.0.2.1, 127.0.0.1"}) {
			t.Errorf("%v: %q", plan, got)
		}
	}
}

// Before a move, the configuration mostly has another chain, or the issuer file differs: the first is explained once
// per request, the second is not.
func TestOtherConfiguration(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	others := newWorld(t)
	for _, c := range []struct {
		own  shadow.Own
		want string
	}{
		{w.previewOf(w.verifier, others.pki), "issuer explained"},
		{w.previewOf(others.verifier, w.pki), "status OK, own: InvalidArgument ISSUER_NOT_TRUSTED"},
	} {
		w.own, w.dir = c.own, t.TempDir()
		p := w.run(site(t, w.upstream), nil)
		for _, r := range w.requests[:5] {
			post(t, p.url, r.JSON)
		}
		r := p.report()
		if len(r.Rows) != 1 || r.Rows[0].Count != 5 || r.Compared != 5 {
			t.Fatalf("%+v", r)
		}
		got := strings.TrimSpace(string(r.Rows[0].Kind) + " " + r.Rows[0].Field)
		if r.Explained == 5 && r.Agrees() {
			got += " explained"
		}
		if got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}
