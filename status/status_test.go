package status

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden file anew")

// pages are the answers of an admin listener, by path.
type pages map[string]struct {
	code int
	body string
}

func (p pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	one, ok := p[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.WriteHeader(one.code)
	_, _ = w.Write([]byte(one.body))
}

func read(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func ask(t *testing.T, p http.Handler) (*Report, error) {
	t.Helper()
	s := httptest.NewServer(p)
	defer s.Close()
	at := time.Date(2026, 12, 1, 10, 0, 0, 0, time.UTC)
	r, err := Ask(t.Context(), Options{URL: s.URL, Client: s.Client(), Now: func() time.Time { return at }})
	if r != nil {
		r.URL = "http://127.0.0.1:2112"
	}
	return r, err
}

// The report of pages that have everything. The file is the example of the documentation.
func TestReport(t *testing.T) {
	t.Parallel()
	got, err := ask(t, pages{
		"/readyz": {503, read(t, "readyz.json")}, "/metrics": {200, read(t, "metrics.txt")},
		"/canary": {200, read(t, "canary.json")},
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, '\n')
	if *update {
		if err := os.WriteFile("testdata/report.json", text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(read(t, "report.json"), string(text)); diff != "" {
		t.Error(diff)
	}
}

// A CA that has little has a short report, and what is not a CA has an error that says what to do.
func TestOtherPages(t *testing.T) {
	t.Parallel()
	const ready = `{"ready":true,"dependencies":{}}`
	r, err := ask(t, pages{"/readyz": {200, ready}, "/metrics": {200, ""}})
	if err != nil || !r.Ready || r.Canary != nil || r.Journal != nil || r.Build != nil || r.Started != nil {
		t.Errorf("%v, %+v", err, r)
	}
	for name, c := range map[string]struct {
		pages pages
		want  string
	}{
		"another program": {
			pages{"/readyz": {200, "ok"}},
			"is not the readiness page of mayfly; write the address",
		},
		"the public listener": {pages{"/readyz": {404, "{}"}}, "answers with status 404"},
		"no metrics":          {pages{"/readyz": {200, ready}}, "/metrics answers with status 404"},
		"other metrics":       {pages{"/readyz": {200, ready}, "/metrics": {200, "{"}}, "/metrics: "},
		"another canary": {
			pages{"/readyz": {200, ready}, "/metrics": {200, ""}, "/canary": {200, "["}}, "/canary: ",
		},
		"too much": {pages{"/readyz": {200, strings.Repeat(" ", maxReady+1)}}, "/readyz: "},
	} {
		if _, err := ask(t, c.pages); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = Ask(t.Context(), Options{URL: "http://127.0.0.1:1", Client: http.DefaultClient})
	if err == nil || !strings.Contains(err.Error(), "cannot be reached") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Ask(ctx, Options{URL: "http://127.0.0.1:1", Client: http.DefaultClient}); err == nil {
		t.Error("no error")
	}
}

// Whatever the page is, the report can be written as JSON.
func FuzzMetrics(f *testing.F) {
	f.Add([]byte(read(f, "metrics.txt")))
	f.Add([]byte("process_start_time_seconds NaN\nmayfly_expiry_timestamp_seconds{kind=\"a\",name=\"b\"} +Inf\n"))
	f.Add([]byte("mayfly_ca_certificates_total{result=\"success\"} -1e300\n"))
	f.Fuzz(func(t *testing.T, page []byte) {
		r := &Report{
			Certificates: Certificates{Refused: map[string]int{}},
			Limits:       Limits{Connections: map[string]Used{}},
		}
		if r.metrics(bytes.Clone(page), time.Unix(1e9, 0)) != nil {
			return
		}
		if _, err := json.Marshal(r); err != nil {
			t.Error(err)
		}
		if r.Certificates.Issued < 0 || r.Uptime < 0 {
			t.Errorf("%+v", r)
		}
	})
}
