package shadow

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func added(t *testing.T, dir string, limit int64, n int) {
	t.Helper()
	s, err := OpenStore(dir)
	must(t, err)
	s.limit = limit
	for i := range n {
		r := Record{Time: int64(i + 1), API: GRPC, Outcome: Equal}
		if i%10 == 0 {
			r.Outcome, r.Differences = Different, []Difference{{Kind: SAN, Upstream: "a", Own: "b"}}
		}
		must(t, s.Add(r))
	}
	must(t, s.Close())
}

// Each record counts once: over segments, over processes, and after a process was killed in the middle of a line or
// between the two steps of summing up.
func TestStore(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "s")
	added(t, dir, 1000, 100)
	segments, err := segmentsOf(dir)
	must(t, err)
	last := filepath.Join(dir, segmentName(segments[len(segments)-1]))
	f, err := os.OpenFile(last, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString(`{"t":1,"o":"eq`)
	must(t, err)
	must(t, f.Close())
	whole, err := os.ReadFile(last)
	must(t, err)
	added(t, dir, segmentSize, 100)
	must(t, os.WriteFile(last, whole, 0o600)) // as if it had not been removed
	r, err := ReadReport(dir)
	must(t, err)
	if r.Equal != 180 || r.Different != 20 || r.Damaged != 1 || r.Rows[0].Count != 20 ||
		len(r.Rows[0].Examples) != maxExamples {
		t.Errorf("%+v", r)
	}
	both, err := ReadReport(dir, dir)
	must(t, err)
	if both.Compared != 400 || both.Rows[0].Count != 40 {
		t.Errorf("%+v", both)
	}
	added(t, dir, segmentSize, 0)
	if r, err = ReadReport(dir); err != nil || r.Compared != 200 {
		t.Errorf("%+v %v", r, err)
	}
}

// The directory is bounded, whatever the upstream answers.
func TestStoreIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := OpenStore(dir)
	must(t, err)
	s.limit = 64 << 10
	long := strings.Repeat("x", maxShown)
	for i := range 3000 {
		must(t, s.Add(Record{Time: 1, Outcome: Different, Differences: []Difference{
			{Kind: Extension, Field: fmt.Sprint(i), Upstream: long, Own: long},
		}}))
	}
	must(t, s.Close())
	size := int64(0)
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		size += info.Size()
	}
	if size > 64<<10+4<<20 {
		t.Errorf("%d bytes", size)
	}
	r, err := ReadReport(dir)
	must(t, err)
	total := int64(0)
	for _, row := range r.Rows {
		total += row.Count
	}
	if len(r.Rows) > maxRows+1 || total != 3000 {
		t.Errorf("%d rows, %d differences", len(r.Rows), total)
	}
}

func TestStoreRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := OpenStore(dir)
	must(t, err)
	if _, err := OpenStore(dir); !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
	must(t, s.Close())
	must(t, os.WriteFile(filepath.Join(dir, totalsName), []byte(`{"format":2}`), 0o600))
	newer := (*NewerFormatError)(nil)
	if _, err := OpenStore(dir); !errors.As(err, &newer) || newer.Format != 2 {
		t.Error(err)
	}
	if _, err := ReadReport(dir); !errors.As(err, &newer) {
		t.Error(err)
	}
	must(t, os.WriteFile(filepath.Join(dir, totalsName), []byte(`{"format":`), 0o600))
	if _, err := OpenStore(dir); err == nil {
		t.Error("a damaged file was opened")
	}
	if _, err := ReadReport(filepath.Join(dir, "none")); err == nil {
		t.Error("a directory that does not exist was read")
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Plan{
		"": {}, "share 25%": {Share: 2500}, "share 0.25\n# x\n": {Share: 25},
		"identity https://a b # c\nshare 100%\nidentity https://b": {
			Share: 10000, Subjects: []Chosen{{"https://a", "b"}, {"https://b", ""}},
		},
	} {
		got, err := ParsePlan([]byte(text))
		if err != nil || !got.equal(want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
		if again, err := ParsePlan([]byte(got.String())); err != nil || !again.equal(want) {
			t.Errorf("%q: %v, %v", got.String(), again, err)
		}
	}
	for _, text := range []string{
		"share", "share 101", "share -1", "share NaN", "share 0.001", "share 1\nshare 2", "identity",
		"identity a b c", "x",
	} {
		if p, err := ParsePlan([]byte(text)); err == nil || !p.Empty() {
			t.Errorf("%q: %v", text, p)
		}
	}
	if err := WritePlan(t.TempDir(), Plan{Subjects: []Chosen{{"https://a", "b c"}}}); err == nil {
		t.Error("a subject with a blank was written")
	}
	s := Plan{Share: 5000, Subjects: []Chosen{{"https://a", ""}, {"https://b", "x"}}}.selection()
	in := 0
	for i := range 10000 {
		if s.has(subject{"https://c", fmt.Sprint(i)}, true) {
			in++
		}
		if !s.has(subject{"https://a", fmt.Sprint(i)}, true) {
			t.Fatal("an issuer that was selected is not served")
		}
	}
	if in < 4800 || in > 5200 || !s.has(subject{"https://b", "x"}, true) || s.has(subject{}, false) {
		t.Errorf("%d of 10000 for 50 %%", in)
	}
}

// A row that a report names is in the table of docs/compatibility.md.
func TestRowsExist(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/compatibility.md")
	must(t, err)
	all := []string{rowFails, rowBearer, rowSubjectID, rowNotBefore, rowChain, rowSub, rowBlocks, rowTexts}
	for _, rows := range refusalRows {
		all = append(all, rows...)
	}
	for _, row := range all {
		if !bytes.Contains(page, []byte("\n| "+row+" |")) {
			t.Errorf("the row %q is missing", row)
		}
	}
}

func TestSubjectOf(t *testing.T) {
	t.Parallel()
	token := "e30.eyJpc3MiOiJodHRwczovL2EiLCJzdWIiOiJiIiwiZXhwIjoxMH0.x" // {"iss":"https://a","sub":"b","exp":10}
	body, err := json.Marshal(map[string]any{"credentials": map[string]any{"oidcIdentityToken": token}})
	must(t, err)
	s, expires, ok := subjectOf(RESTv2, nil, body)
	if !ok || s != (subject{"https://a", "b"}) || !expires.Equal(time.Unix(10, 0)) {
		t.Error(s, expires, ok)
	}
	for _, value := range []string{"Bearer " + token, "bearer  " + token, token} {
		if s, _, ok := subjectOf(RESTv1, map[string][]string{"Authorization": {value}}, nil); !ok || s.Name != "b" {
			t.Errorf("%q: %v", value, s)
		}
	}
	if s, _, ok := subjectOf(GRPC, map[string][]string{"Oidcidentitytoken": {token}}, []byte{0, 0, 0, 0, 0}); !ok ||
		s.Name != "b" {
		t.Error(s)
	}
}

// The beginning of a certificate is compared with the time at which it can have been made.
func TestTimes(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range []struct {
		name      string
		took      time.Duration // of the upstream
		begins    time.Duration // of the upstream's certificate, after the request
		different bool
		explained bool
	}{
		{"at once", 0, -30 * time.Second, false, false},
		{"made late", 20 * time.Second, -10 * time.Second, false, false},
		{"made later than answered", 0, -10 * time.Second, true, false},
		{"backdated by an hour", 20 * time.Second, -time.Hour, true, false},
		{"Fulcio's", 0, 0, true, true},
		{"Fulcio's, made late", 30 * time.Second, 29 * time.Second, true, true},
		{"in the future", 0, time.Minute, true, false},
	} {
		leaf := func(from time.Time) *x509.Certificate {
			return &x509.Certificate{NotBefore: from, NotAfter: from.Add(time.Minute)}
		}
		x := comparison{
			exchange: &exchange{began: now, took: c.took}, decided: now.Add(time.Hour),
			up: answer{leaf: leaf(now.Add(c.begins))}, own: answer{leaf: leaf(now.Add(time.Hour - 30*time.Second))},
			show: func(v value) string { return v.text },
		}
		x.times()
		if (len(x.out) > 0) != c.different || c.different && explained(x.out) != c.explained {
			t.Errorf("%s: %+v", c.name, x.out)
		}
	}
}

func FuzzParsePlan(f *testing.F) {
	f.Add([]byte("share 25%\nidentity https://a b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePlan(data)
		if err != nil {
			return
		}
		if again, err := ParsePlan([]byte(p.String())); err != nil || !again.equal(p) {
			t.Errorf("%q: %v, %v", p.String(), again, err)
		}
	})
}

// FuzzRead decodes answers of any upstream, and compares them.
func FuzzRead(f *testing.F) {
	f.Add(byte(0), 200, "", []byte(`{"signedCertificateDetachedSct":{"chain":{"certificates":["x"]}}}`))
	f.Add(byte(1), 201, "", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add(byte(2), 200, "3", []byte{0, 0, 0, 0, 2, 10, 0})
	f.Fuzz(func(t *testing.T, api byte, status int, code string, content []byte) {
		one := []API{RESTv2, RESTv1, GRPC}[api%3]
		r := received{status, map[string][]string{
			"Grpc-Status": {code}, "Grpc-Message": {string(content)}, "Grpc-Status-Details-Bin": {string(content)},
		}, nil, content}
		a := r.read(one)
		if a.leaf == nil && a.problem == "" && a.code == 0 && status/100 == 2 {
			t.Error("an answer without a certificate has no problem")
		}
		x := &exchange{api: one, body: content, header: map[string][]string{"Authorization": {string(content)}}}
		subjectOf(one, x.header, content)
		c := comparison{exchange: x, up: a, own: r.read(one), show: func(v value) string { return v.text }}
		for _, d := range c.run() {
			if d.Kind == "" {
				t.Error("a difference without a kind")
			}
		}
	})
}

// FuzzRecords reads damaged files.
func FuzzRecords(f *testing.F) {
	f.Add([]byte(`{"t":1,"o":"equal"}`+"\n"+`{"o":"different","d":[{"kind":"san"}]}`+"\n{"),
		[]byte(`{"rows":[null,{}]}`))
	f.Fuzz(func(t *testing.T, lines, sums []byte) {
		s := newTotals()
		if s.decode(sums) != nil {
			s = newTotals()
		}
		s.readLines(lines)
		if err := s.report().Write(&bytes.Buffer{}); err != nil {
			t.Error(err)
		}
	})
}
