package embedded_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/testkit/witness"
	"github.com/mayfly-ca/mayfly/tlog"
)

// witnessed opens a log with witnesses that have its key.
func witnessed(t *testing.T, dir string, want int, all ...*witness.Witness) *embedded.Log {
	t.Helper()
	c := embedded.Config{Dir: dir, Origin: origin, WitnessPolicy: &want}
	for _, w := range all {
		c.Witnesses = append(c.Witnesses, tlog.WitnessConfig{URL: w.URL(), PublicKey: w.Key()})
	}
	first := open(t, dir) // for the key
	for _, w := range all {
		w.AddLog(origin, first.Key())
	}
	shut(t, first)
	l, err := embedded.Open(t.Context(), c, tlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, l) })
	return l
}

// until waits for a condition, at most ten seconds.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not %s", what)
		}
	}
}

func submit(t *testing.T, l *embedded.Log, n int) {
	t.Helper()
	if _, err := l.Submit(t.Context(), precert(n)); err != nil {
		t.Fatal(err)
	}
}

// Checkpoints have the cosignatures of all witnesses, each with a consistency proof, also after a restart and for the
// last checkpoint.
func TestWitnesses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := witness.New(t, "a.example"), witness.New(t, "b.example")
	l := witnessed(t, dir, 2, a, b)
	both := func(size uint64) func() bool {
		return func() bool {
			n, _ := head(t, l, 0)
			text := string(get(t, l, "/checkpoint"))
			_, first := a.Cosigned(text)
			_, second := b.Cosigned(text)
			return n >= size && first && second
		}
	}
	for n := range 3 {
		submit(t, l, n)
		until(t, "cosigned by both", both(uint64(n+1)))
	}
	if w := l.Warning(t.Context()); w != "" {
		t.Error(w)
	}
	if _, proofs := a.Requests(); proofs < 2 {
		t.Errorf("%d proofs", proofs)
	}
	submit(t, l, 3)
	shut(t, l)
	if n := a.Size(origin); n != 4 {
		t.Errorf("the last checkpoint has %d entries at the witness", n)
	}
	l = witnessed(t, dir, 2, a, b)
	if _, ok := a.Cosigned(string(get(t, l, "/checkpoint"))); !ok {
		t.Error("no cosignature after a restart")
	}
	submit(t, l, 4)
	until(t, "cosigned after a restart, by 409 and the size in it", both(5))
}

// Readiness names a witness that fails. Such a witness delays no SCT, and a checkpoint only briefly.
func TestWitnessFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fault witness.Fault
		want  string
	}{
		{witness.Error500, "status 500"},
		{witness.Garbage, "does not verify"},
		{witness.Endless, "larger than"},
		{witness.BadSignature, "does not verify"},
		{witness.Redirect, "status 307"},
		{witness.Old, "clocks"},
		{witness.Hang, ""},
		{witness.WrongSize, ""},
		{witness.Larger, "entries were lost"},
	} {
		t.Run(string(c.fault), func(t *testing.T) {
			t.Parallel()
			good, bad := witness.New(t, "good.example"), witness.New(t, "bad.example")
			bad.Fail(c.fault)
			l := witnessed(t, t.TempDir(), 2, good, bad)
			began := time.Now()
			submit(t, l, 0)
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("an SCT took %s", took)
			}
			until(t, "published with one cosignature", func() bool {
				n, _ := head(t, l, 0)
				_, ok := good.Cosigned(string(get(t, l, "/checkpoint")))
				return n == 1 && ok
			})
			if w := l.Warning(t.Context()); !strings.Contains(w, "1 of 2") || !strings.Contains(w, "bad.example") ||
				!strings.Contains(w, c.want) {
				t.Errorf("warning %q, want %q", w, c.want)
			}
			if _, ok := bad.Cosigned(string(get(t, l, "/checkpoint"))); ok {
				t.Error("the bad cosignature is published")
			}
		})
	}
}

// A checkpoint that meets the policy is published at once; a witness that hangs is set aside, and tried again later.
func TestWitnessPolicy(t *testing.T) {
	t.Parallel()
	good, slow := witness.New(t, "good.example"), witness.New(t, "slow.example")
	slow.Fail(witness.Hang)
	l := witnessed(t, t.TempDir(), 1, good, slow)
	for n := range 8 {
		submit(t, l, n)
		until(t, "covered", func() bool { size, _ := head(t, l, 0); return size == uint64(n+1) })
		if w := l.Warning(t.Context()); w != "" {
			t.Error(w)
		}
	}
	if all, _ := slow.Requests(); all > 4 {
		t.Errorf("%d requests to a witness that does not answer", all)
	}
}

// The warning says that a witness does not know the log.
func TestWitnessWithoutLog(t *testing.T) {
	t.Parallel()
	w := witness.New(t, "other.example")
	c := embedded.Config{
		Dir: t.TempDir(), Origin: origin,
		Witnesses: []tlog.WitnessConfig{{URL: w.URL(), PublicKey: w.Key(), Name: "w"}},
	}
	l, err := embedded.Open(context.Background(), c, tlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, l) })
	until(t, "warned", func() bool {
		return strings.Contains(l.Warning(t.Context()), "witness w: the witness does not know this log")
	})
}

func TestWitnessConfig(t *testing.T) {
	t.Parallel()
	w := witness.New(t, "w.example")
	two := 2
	for name, c := range map[string]struct {
		w    tlog.WitnessConfig
		n    *int
		want string
	}{
		"good":   {tlog.WitnessConfig{URL: w.URL(), PublicKey: w.Key()}, nil, ""},
		"plain":  {tlog.WitnessConfig{URL: "http://witness.example.com", PublicKey: w.Key()}, nil, "https"},
		"no url": {tlog.WitnessConfig{PublicKey: w.Key()}, nil, "url"},
		"no key": {tlog.WitnessConfig{URL: w.URL()}, nil, "public_key"},
		"bad key": {tlog.WitnessConfig{
			URL:       w.URL(),
			PublicKey: strings.Replace(w.Key(), "w.example", "v.example", 1),
		}, nil, "public_key"},
		"too many": {tlog.WitnessConfig{URL: w.URL(), PublicKey: w.Key()}, &two, "witness_policy"},
	} {
		err := embedded.Config{
			Dir: "x", Origin: origin, Witnesses: []tlog.WitnessConfig{c.w},
			WitnessPolicy: c.n,
		}.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
