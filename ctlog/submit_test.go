package ctlog_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/tbs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) } // B8

func write(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

func status(code int, retryAfter string) answer {
	return func(w http.ResponseWriter, _ *http.Request, _ func(edit) map[string]any) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		http.Error(w, "the lab says no", code)
	}
}

func hang(_ http.ResponseWriter, r *http.Request, _ func(edit) map[string]any) { <-r.Context().Done() }

func reset(w http.ResponseWriter, _ *http.Request, _ func(edit) map[string]any) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

func raw(text string) answer {
	return func(w http.ResponseWriter, _ *http.Request, _ func(edit) map[string]any) {
		_, _ = w.Write([]byte(text))
	}
}

func edited(change edit) answer {
	return func(w http.ResponseWriter, _ *http.Request, honest func(edit) map[string]any) {
		write(w, honest(change))
	}
}

// after changes the JSON of a correct SCT.
func after(change func(m map[string]any)) answer {
	return func(w http.ResponseWriter, _ *http.Request, honest func(edit) map[string]any) {
		m := honest(nil)
		change(m)
		write(w, m)
	}
}

func shift(d time.Duration) edit {
	return func(s *tbs.SCT, _ *tbs.Entry) { s.Timestamp = uint64(time.Now().Add(d).UnixMilli()) }
}

type faultRow struct {
	name   string
	answer answer
	want   ctlog.Result
	calls  int64  // at the log, if it is the only one; untilEnd is as many as the budget allows
	text   string // in the error
}

// untilEnd means that the log is tried until the budget ends.
const untilEnd = 0

func faultTable(t *testing.T) []faultRow {
	otherEntry := newAuthority(t).precert(t).Entry
	other := newKey(t, elliptic.P256())
	return []faultRow{
		{name: "400", answer: status(400, ""), want: ctlog.Refused, calls: 1, text: `"the lab says no`},
		{name: "404", answer: status(404, ""), want: ctlog.Refused, calls: 3},
		{name: "408", answer: status(408, ""), want: ctlog.Busy, calls: untilEnd},
		{name: "500", answer: status(500, ""), want: ctlog.Broken, calls: untilEnd},
		{name: "502", answer: status(502, ""), want: ctlog.Broken, calls: untilEnd},
		{name: "503", answer: status(503, ""), want: ctlog.Busy, calls: untilEnd},
		{name: "429", answer: status(429, ""), want: ctlog.Busy, calls: untilEnd},
		{name: "429 soon", answer: status(429, "1"), want: ctlog.Busy, calls: untilEnd},
		{name: "429 for a long time", answer: status(429, "86400000000000000"), want: ctlog.Busy, calls: 1},
		{name: "429 for longer than we wait", answer: status(429, "6"), want: ctlog.Busy, calls: 1},
		{name: "429 for less than nothing", answer: status(429, "-5"), want: ctlog.Busy, calls: untilEnd},
		{name: "429 with a word", answer: status(429, "later"), want: ctlog.Busy, calls: untilEnd},
		{name: "redirect", answer: func(w http.ResponseWriter, r *http.Request, _ func(edit) map[string]any) {
			http.Redirect(w, r, "/lab/ct/v1/add-pre-chain", http.StatusTemporaryRedirect)
		}, want: ctlog.Refused, calls: 3, text: "307"},
		{name: "see other", answer: func(w http.ResponseWriter, r *http.Request, _ func(edit) map[string]any) {
			http.Redirect(w, r, "/lab/ct/v1/get-roots", http.StatusSeeOther)
		}, want: ctlog.Refused, calls: 3},
		{name: "hang", answer: hang, want: ctlog.TimedOut, calls: untilEnd},
		{name: "hang in the body", answer: func(w http.ResponseWriter, r *http.Request, _ func(edit) map[string]any) {
			_, _ = w.Write([]byte(`{"sct_version":0`))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, want: ctlog.TimedOut, calls: untilEnd},
		{name: "reset", answer: reset, want: ctlog.Unreachable, calls: untilEnd},
		{name: "cut short", answer: func(w http.ResponseWriter, _ *http.Request, _ func(edit) map[string]any) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte(`{"sct`))
		}, want: ctlog.Unreachable, calls: untilEnd},
		{
			name: "huge body", answer: raw(`{"x":"` + strings.Repeat("a", 65<<10) + `"}`),
			want: ctlog.Garbled, calls: 3,
			text: "longer than 65536 bytes",
		},
		{name: "huge body of an error", answer: func(w http.ResponseWriter, _ *http.Request,
			_ func(edit) map[string]any,
		) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write(bytes.Repeat([]byte("a"), 65<<10))
		}, want: ctlog.Garbled, calls: 3},
		{name: "html", answer: raw("<html>"), want: ctlog.Garbled, calls: 3},
		{name: "empty body", answer: raw(""), want: ctlog.Garbled, calls: 3},
		{name: "null", answer: raw("null"), want: ctlog.Garbled, calls: 3},
		{name: "empty object", answer: raw("{}"), want: ctlog.Garbled, calls: 3},
		{name: "two objects", answer: func(w http.ResponseWriter, _ *http.Request, honest func(edit) map[string]any) {
			write(w, honest(nil))
			write(w, honest(nil))
		}, want: ctlog.Garbled, calls: 3},
		{
			name: "version 2", answer: after(func(m map[string]any) { m["sct_version"] = 1 }), want: ctlog.Garbled,
			calls: 3, text: "version 2",
		},
		{
			name: "no version", answer: after(func(m map[string]any) { delete(m, "sct_version") }),
			want: ctlog.Garbled, calls: 3,
		},
		{
			name: "short id", answer: after(func(m map[string]any) { m["id"] = []byte{1, 2} }),
			want: ctlog.Garbled, calls: 3,
		},
		{
			name:   "trailing bytes in the signature",
			answer: after(func(m map[string]any) { m["signature"] = append(m["signature"].([]byte), 0) }),
			want:   ctlog.Garbled, calls: 3,
		},
		{
			name: "no signature", answer: after(func(m map[string]any) { delete(m, "signature") }),
			want: ctlog.Garbled, calls: 3,
		},
		{
			name: "another log's id", answer: edited(func(s *tbs.SCT, _ *tbs.Entry) { s.LogID[0] ^= 1 }),
			want: ctlog.Unverified, calls: 3, text: "log ID",
		},
		{name: "another key", answer: func(w http.ResponseWriter, r *http.Request, honest func(edit) map[string]any) {
			s, err := signSCT(other, otherEntry, nil)
			m := honest(nil)
			m["signature"] = append([]byte{4, 3, byte(len(s.Signature) >> 8), byte(len(s.Signature))}, s.Signature...)
			if err == nil {
				write(w, m)
			}
		}, want: ctlog.Unverified, calls: 3, text: "does not verify"},
		{
			name: "broken signature", answer: after(func(m map[string]any) { m["signature"].([]byte)[20] ^= 1 }),
			want: ctlog.Unverified, calls: 3,
		},
		{
			name: "signed with SHA-1", answer: edited(func(s *tbs.SCT, _ *tbs.Entry) { s.Hash = 2 }),
			want: ctlog.Unverified, calls: 3,
		},
		{
			name: "signed with RSA, it says", answer: edited(func(s *tbs.SCT, _ *tbs.Entry) { s.Sig = 1 }),
			want: ctlog.Unverified, calls: 3,
		},
		{
			name: "for another certificate", answer: edited(func(_ *tbs.SCT, e *tbs.Entry) { e.TBS = otherEntry.TBS }),
			want: ctlog.Unverified, calls: 3,
		},
		{
			name: "for another issuer", answer: edited(func(_ *tbs.SCT, e *tbs.Entry) { e.IssuerKeyHash[3] ^= 1 }),
			want: ctlog.Unverified, calls: 3,
		},
		{
			name: "other extensions than signed", answer: after(func(m map[string]any) { m["extensions"] = "" }),
			want: ctlog.Unverified, calls: 3,
		},
		{
			name:   "other time than signed",
			answer: after(func(m map[string]any) { m["timestamp"] = m["timestamp"].(uint64) + 1 }),
			want:   ctlog.Unverified, calls: 3,
		},
		{
			name: "of 1970", answer: edited(func(s *tbs.SCT, _ *tbs.Entry) { s.Timestamp = 1 }), want: ctlog.Skewed,
			calls: 3, text: "1970",
		},
		{
			name: "of the far future", answer: edited(func(s *tbs.SCT, _ *tbs.Entry) { s.Timestamp = 1<<64 - 1 }),
			want: ctlog.Skewed, calls: 3, text: "after",
		},
		{name: "70 s old", answer: edited(shift(-70 * time.Second)), want: ctlog.Skewed, calls: 3, text: "before"},
		{name: "70 s ahead", answer: edited(shift(70 * time.Second)), want: ctlog.Skewed, calls: 3, text: "after"},
	}
}

// The only log is tried again, unless it rejects the request, and never too often. B1 // B2 // B3 // B8 // B9 // B11
func TestFaultOfOneLog(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for _, row := range faultTable(t) {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			l := newLog(t)
			l.set(row.answer)
			const budget = 2500 * time.Millisecond
			s := newSet(t, ctlog.Options{
				Logs:   []ctlog.Log{l.asLog(t, "lab")},
				Policy: ctlog.PolicyConfig{Attempt: time.Second, Budget: budget},
			})
			began := time.Now()
			scts, err := s.Submit(t.Context(), ca.precert(t))
			took := time.Since(began)
			if scts != nil || err == nil {
				t.Fatalf("got %d SCTs and error %v", len(scts), err)
			}
			var f *ctlog.Failure
			// on a busy machine, the last of several attempts may be under way when the budget ends
			cut := errors.As(err, &f) && f.Result == ctlog.TimedOut && took >= budget && row.calls == untilEnd
			if f == nil || !cut && (f.Result != row.want || !strings.Contains(err.Error(), row.text)) {
				t.Errorf("error is %v; want result %s, text %q", err, row.want, row.text)
			}
			if e := fault.From(err); e.Reason != fault.LogUnavailable || e.RetryAfter < time.Second ||
				e.RetryAfter > 30*time.Second || !strings.HasPrefix(e.Meta["cause"], "a log ") {
				t.Errorf("fault is %+v", e)
			}
			got := l.calls.Load()
			if row.calls == untilEnd && (got < 2 || got > 8) || row.calls != untilEnd && got != row.calls {
				t.Errorf("the log was asked %d times, want %d", got, row.calls)
			}
			if took > budget+time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// B1 // B9 // B10: for every fault of one log, another log returns an SCT, at once or after the stagger.
func TestFaultOfFirstLog(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for _, row := range faultTable(t) {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			bad, good := newLog(t), newLog(t)
			bad.set(row.answer)
			s := newSet(t, ctlog.Options{
				Logs:   []ctlog.Log{bad.asLog(t, "bad"), good.asLog(t, "good")},
				Policy: ctlog.PolicyConfig{Parallel: 1},
			})
			began := time.Now()
			scts, err := s.Submit(t.Context(), ca.precert(t))
			if err != nil || len(scts) != 1 {
				t.Fatalf("got %d SCTs and error %v", len(scts), err)
			}
			if took, stagger := time.Since(began), 500*time.Millisecond; took > stagger+time.Second {
				t.Errorf("took %s; the stagger is %s", took, stagger)
			}
			if bad.calls.Load() != 1 || good.calls.Load() != 1 {
				t.Errorf("the logs were asked %d and %d times", bad.calls.Load(), good.calls.Load())
			}
		})
	}
}
