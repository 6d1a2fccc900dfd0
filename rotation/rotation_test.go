package rotation_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/rotation"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

var start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

var policy = rotation.Policy{Propagation: 48 * time.Hour, Keep: 24 * time.Hour}

func chain(t *testing.T) []*x509.Certificate {
	t.Helper()
	return pki.New(pki.Options{Now: start}).Chain
}

func entry(at time.Time, reason string) rotation.Entry {
	return rotation.Entry{Time: at, By: "test", Reason: reason}
}

// ready is what is observed of a chain for which every gate can open.
func ready() rotation.Facts {
	return rotation.Facts{
		Places: []rotation.Place{
			{Name: "trust bundle", Has: true}, {Name: "trusted root", Has: true}, {Name: "TUF repository", Has: true},
		},
		Logs: []rotation.Log{{Name: "a", Accepts: true}, {Name: "b", Accepts: true}},
	}
}

func seen(f rotation.Facts, at time.Time) rotation.Observation {
	return rotation.Observation{Facts: f, Policy: policy, Time: at}
}

// two is a state with the active chain "old" and the prepared chain "new".
func two(t *testing.T) rotation.State {
	t.Helper()
	s, err := rotation.First("old", chain(t), entry(start, "first"))
	if err == nil {
		s, err = s.Prepare(rotation.Chain{Name: "new"}, chain(t), entry(start, "tried"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func status(s rotation.State, name string) rotation.Status {
	c, _ := s.Find(name)
	return c.Status
}

// must checks what every state has to be: it can be written and read back, and one chain is active (C5).
func must(t *testing.T, s rotation.State, err error) rotation.State {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	data, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := rotation.Parse(data)
	if err != nil || !back.Equal(s) {
		t.Fatalf("does not read back: %v", err)
	}
	if _, ok := s.Active(); !ok && !slices.ContainsFunc(s.Chains,
		func(c rotation.Chain) bool { return c.Status == rotation.Compromised }) {
		t.Fatal("no chain is active")
	}
	return s
}

// C3: two chains go through all states, with a clock of the test.
func TestLife(t *testing.T) {
	t.Parallel()
	s := two(t)
	now := start
	see := func(f rotation.Facts) bool {
		next, changed := s.Observe("new", seen(f, now), "test")
		s = must(t, next, nil)
		return changed
	}
	gates := func() []rotation.Gate {
		c, _ := s.Find("new")
		return seen(ready(), now).Gates(c)
	}
	try := func() error {
		_, err := s.Activate("new", rotation.Passage{Gates: gates(), Keep: policy.Keep}, entry(now, "go"))
		return err
	}
	nowhere := ready()
	nowhere.Places[1].Has = false
	if see(nowhere) || status(s, "new") != rotation.Prepared || try() == nil {
		t.Fatalf("%s without being published", status(s, "new"))
	}
	now = now.Add(time.Hour)
	if !see(ready()) || status(s, "new") != rotation.Published || see(ready()) || try() == nil {
		t.Fatalf("%s", status(s, "new"))
	}
	published := now
	// A source that cannot be read changes nothing; one that no longer has the chain restarts the delay.
	now = now.Add(time.Hour)
	silent := ready()
	silent.Places[2] = rotation.Place{Name: "TUF repository", Unknown: true, Cause: "timeout"}
	if see(silent) || status(s, "new") != rotation.Published {
		t.Fatal("a silent place changed the state")
	}
	if !see(nowhere) || status(s, "new") != rotation.Prepared {
		t.Fatal("a place lost the chain")
	}
	now = now.Add(time.Hour)
	see(ready())
	now = published.Add(policy.Propagation)
	if see(ready()) || try() == nil {
		t.Fatal("the delay counts from the second publication")
	}
	now = now.Add(2 * time.Hour)
	if !see(ready()) || status(s, "new") != rotation.Accepted {
		t.Fatal(status(s, "new"))
	}
	if status(s, "old") != rotation.Active {
		t.Fatal("the old chain signs until the new one does")
	}
	next, err := s.Activate("new", rotation.Passage{Gates: gates(), Keep: policy.Keep}, entry(now, "go"))
	s = must(t, next, err)
	old, _ := s.Find("old")
	if status(s, "new") != rotation.Active || old.Status != rotation.Retiring || !old.Ends.Equal(now.Add(policy.Keep)) {
		t.Fatalf("%+v", old)
	}
	if from, to := old.Trusted(); !to.Equal(old.Ends) || !from.Equal(old.Certificates()[0].NotBefore) {
		t.Errorf("trusted from %s to %s", from, to)
	}

	// The chain can be retired when its last certificate has expired, and not before.
	last := now.Add(25 * time.Hour) // one instance followed late
	for _, c := range []struct {
		after time.Duration
		last  time.Time
		open  bool
	}{
		{23 * time.Hour, time.Time{}, false},
		{24 * time.Hour, time.Time{}, true},
		{24 * time.Hour, last, false},
		{25 * time.Hour, last, true},
	} {
		at := now.Add(c.after)
		g := seen(rotation.Facts{Last: c.last}, at).RetireGates(old)
		_, err := s.Retire("old", rotation.Passage{Gates: g}, entry(at, ""))
		if (err == nil) != c.open {
			t.Errorf("after %s, last %s: %v", c.after, c.last, err)
		}
	}
	next, err = s.Retire("old", rotation.Passage{Last: now.Add(time.Hour)}, entry(now.Add(26*time.Hour), "history"))
	if retired, _ := must(t, next, err).Find("old"); !retired.Ends.Equal(old.Ends) {
		t.Errorf("trusted until %s, want %s: the last certificate ended before", retired.Ends, old.Ends)
	}
	next, err = s.Retire("old", rotation.Passage{Last: last.Add(1)}, entry(now.Add(26*time.Hour), "history"))
	s = must(t, next, err)
	if status(s, "old") != rotation.Retired || rotation.Retired.Bundled() {
		t.Error("not retired")
	}
	if retired, _ := s.Find("old"); !retired.Ends.Equal(last.Add(time.Second)) {
		t.Errorf("trusted until %s, and the last certificate ends after %s", retired.Ends, last)
	}
	var steps []string
	for _, h := range s.History {
		steps = append(steps, fmt.Sprintf("%s:%s>%s", h.Chain, h.From, h.To))
	}
	want := "old:>active new:>prepared new:prepared>published new:published>prepared new:prepared>published " +
		"new:published>accepted old:active>retiring new:accepted>active old:retiring>retired"
	if got := strings.Join(steps, " "); got != want {
		t.Errorf("history\n%s, want\n%s", got, want)
	}
}

// C3: each gate, closed alone, refuses; with force and a reason the history names it.
func TestGates(t *testing.T) {
	t.Parallel()
	s := two(t)
	s, _ = s.Observe("new", seen(ready(), start), "test")
	now := start.Add(policy.Propagation)
	for name, c := range map[string]struct {
		change func(*rotation.Facts)
		now    time.Time
	}{
		rotation.GateChain:       {func(f *rotation.Facts) { f.Unusable = "the key is away" }, now},
		"trust bundle":           {func(f *rotation.Facts) { f.Places[0].Has = false }, now},
		"trusted root":           {func(f *rotation.Facts) { f.Places[1].Has = false }, now},
		"TUF repository":         {func(f *rotation.Facts) { f.Places[2] = rotation.Place{Name: "TUF repository", Unknown: true} }, now},
		rotation.GatePropagation: {func(*rotation.Facts) {}, now.Add(-time.Second)},
		"log b":                  {func(f *rotation.Facts) { f.Logs[1] = rotation.Log{Name: "b", Cause: "does not list it"} }, now},
		rotation.GateTrial:       {func(f *rotation.Facts) { f.Trial = "x509: unknown authority" }, now},
		"":                       {func(*rotation.Facts) {}, now},
	} {
		f := ready()
		c.change(&f)
		one, _ := s.Find("new")
		gates := seen(f, c.now).Gates(one)
		next, err := s.Activate("new", rotation.Passage{Gates: gates, Keep: policy.Keep}, entry(c.now, ""))
		if name == "" {
			must(t, next, err)
			continue
		}
		var closed *rotation.ClosedError
		if !errors.As(err, &closed) || len(closed.Gates) != 1 || closed.Gates[0].Name != name ||
			!strings.Contains(err.Error(), name) {
			t.Errorf("%q: %v", name, err)
		}
		if !next.Equal(s) {
			t.Errorf("%q: the state changed", name)
		}
		force := rotation.Passage{Gates: gates, Force: true, Keep: policy.Keep}
		if _, err := s.Activate("new", force, entry(c.now, "")); err == nil {
			t.Errorf("%q: forced without a reason", name)
		}
		next, err = s.Activate("new", force, entry(c.now, "the office burns"))
		next = must(t, next, err)
		if last := next.History[len(next.History)-1]; !slices.Equal(last.Forced, []string{name}) ||
			last.Reason != "the office burns" {
			t.Errorf("%q: history %+v", name, last)
		}
		if name != rotation.GatePropagation {
			if _, changed := s.Observe("new", seen(f, c.now), "test"); changed && name != "trust bundle" &&
				name != "trusted root" {
				t.Errorf("%q: accepted with a closed gate", name)
			}
		}
	}
}

// Every command refuses a chain that is not in a status for it.
func TestStatuses(t *testing.T) {
	t.Parallel()
	base := two(t)
	force := rotation.Passage{Force: true, Keep: policy.Keep}
	at := func(n int) rotation.Entry { return entry(start.Add(time.Duration(n)*time.Hour), "because") }
	active, err := base.Activate("new", force, at(1))
	active = must(t, active, err)
	retired, err := active.Retire("old", rotation.Passage{}, at(30))
	retired = must(t, retired, err)
	dead, err := active.Compromise("old", rotation.Compromise{Since: start}, at(2))
	dead = must(t, dead, err)
	for _, c := range []struct {
		state    rotation.State
		name     string
		commands string // that are possible
	}{
		{base, "old", "compromise"},
		{base, "new", "activate abort compromise"},
		{active, "old", "activate retire compromise"},
		{active, "new", "compromise"},
		{retired, "old", "compromise"},
		{dead, "old", "compromise"},
		{base, "nobody", ""},
	} {
		var can []string
		for _, one := range []struct {
			name string
			run  func() (rotation.State, error)
		}{
			{"activate", func() (rotation.State, error) { return c.state.Activate(c.name, force, at(40)) }},
			{"retire", func() (rotation.State, error) { return c.state.Retire(c.name, rotation.Passage{}, at(40)) }},
			{"abort", func() (rotation.State, error) { return c.state.Abort(c.name, at(40)) }},
			{"compromise", func() (rotation.State, error) {
				return c.state.Compromise(c.name, rotation.Compromise{Since: start, Stop: true}, at(40))
			}},
		} {
			if next, err := one.run(); err == nil {
				must(t, next, nil)
				can = append(can, one.name)
			}
		}
		if got := strings.Join(can, " "); got != c.commands {
			t.Errorf("%s %s: %q, want %q", c.name, status(c.state, c.name), got, c.commands)
		}
	}
	// A retiring chain becomes active again, and its validity no longer has an early end.
	back, err := active.Activate("old", force, at(3))
	back = must(t, back, err)
	if c, _ := back.Find("old"); !c.Ends.IsZero() || status(back, "new") != rotation.Retiring {
		t.Errorf("%+v", c)
	}
	given, err := base.Abort("new", at(1))
	given = must(t, given, err)
	if _, ok := given.Find("new"); ok || given.History[len(given.History)-1].To != rotation.Aborted {
		t.Error("not given up")
	}
}

// A compromise ends the trust at its time. A compromise of the active chain needs a successor or an explicit stop.
func TestCompromise(t *testing.T) {
	t.Parallel()
	s := two(t)
	now := entry(start.Add(time.Hour), "stolen disk")
	since := start.Add(30 * time.Minute)
	if _, err := s.Compromise("old", rotation.Compromise{Since: since}, now); !errors.Is(err, rotation.ErrSuccessor) {
		t.Error(err)
	}
	if _, err := s.Compromise("old", rotation.Compromise{Since: since, Stop: true}, entry(now.Time, "")); err == nil {
		t.Error("no reason")
	}
	if _, err := s.Compromise("old", rotation.Compromise{Since: now.Time.Add(time.Hour), Stop: true}, now); err == nil {
		t.Error("a time in the future")
	}
	stopped, err := s.Compromise("old", rotation.Compromise{Since: since, Stop: true}, now)
	stopped = must(t, stopped, err)
	if _, ok := stopped.Active(); ok {
		t.Error("something signs")
	}
	successor := rotation.Compromise{
		Since: since, Successor: "new", Keep: policy.Keep,
		Gates: seen(rotation.Facts{}, now.Time).Gates(s.Chains[1]),
	}
	next, err := s.Compromise("old", successor, now)
	next = must(t, next, err)
	old, _ := next.Find("old")
	if _, to := old.Trusted(); !to.Equal(since) || old.Status != rotation.Compromised || old.Untrusted() ||
		status(next, "new") != rotation.Active {
		t.Errorf("%+v until %s", old, to)
	}
	// Again: nothing changes, or an earlier time.
	if again, err := next.Compromise("old", successor, now); err != nil || !again.Equal(next) {
		t.Error(err)
	}
	earlier, err := next.Compromise("old", rotation.Compromise{Since: since.Add(-time.Minute)}, now)
	earlier = must(t, earlier, err)
	if c, _ := earlier.Find("old"); !c.Ends.Equal(since.Add(-time.Minute)) {
		t.Error(c.Ends)
	}
	// With a time before its first signature, nothing under the chain is trusted.
	before, err := next.Compromise("old", rotation.Compromise{Since: start.Add(-2 * time.Hour)}, now)
	before = must(t, before, err)
	if c, _ := before.Find("old"); c.Status == rotation.Compromised {
		if from, to := c.Trusted(); from.Before(to) || !c.Untrusted() {
			t.Error("trusted")
		}
	}
	// Neither the certificate nor the key can be prepared again.
	if _, err := next.Prepare(rotation.Chain{Name: "again"}, old.Certificates(), now); err == nil {
		t.Error("the certificate is prepared again")
	}
	p := pki.New(pki.Options{Now: start})
	s2, err := rotation.First("a", p.Chain, entry(start, ""))
	s2 = must(t, s2, err)
	s2, err = s2.Compromise("a", rotation.Compromise{Since: start, Stop: true}, now)
	s2 = must(t, s2, err)
	sameKey := *p.Intermediate
	sameKey.Raw = append([]byte(nil), sameKey.Raw...)
	sameKey.Raw[len(sameKey.Raw)-1] ^= 1
	if _, err := s2.Prepare(rotation.Chain{Name: "b"}, []*x509.Certificate{&sameKey, p.Root}, now); err == nil ||
		!strings.Contains(err.Error(), "create a new key") {
		t.Errorf("the key is prepared again: %v", err)
	}
}

// C5: a process that dies at any moment of a write leaves the former state or the next one, with one active chain.
func TestCrash(t *testing.T) {
	t.Parallel()
	states := []rotation.State{two(t)}
	add := func(s rotation.State, err error) { states = append(states, must(t, s, err)) }
	force := rotation.Passage{Force: true, Keep: policy.Keep}
	s, _ := states[0].Observe("new", seen(ready(), start), "test")
	add(s, nil)
	add(states[1].Activate("new", force, entry(start, "x")))
	add(states[2].Retire("old", rotation.Passage{}, entry(start, "x")))
	add(states[3].Compromise("new", rotation.Compromise{Since: start, Stop: true}, entry(start, "x")))
	for i := 1; i < len(states); i++ {
		data, err := states[i].Encode()
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []string{"temporary", "half", "renamed", "error"} {
			f := rotation.File{Path: filepath.Join(t.TempDir(), "state.json")}
			put := func(_ rotation.State) (rotation.State, error) { return states[i-1], nil }
			if _, err := f.Update(t.Context(), put); err != nil {
				t.Fatal(err)
			}
			f.Write = func(name string, data []byte, mode fs.FileMode) error {
				switch at {
				case "half":
					data = data[:len(data)/2]
					fallthrough
				case "temporary":
					_ = os.WriteFile(filepath.Join(filepath.Dir(name), ".state.json.new-1"), data, mode)
				case "renamed":
					_ = os.WriteFile(name, data, mode)
				case "error":
					return errors.New("no space left")
				}
				panic("crash")
			}
			func() {
				defer func() { _ = recover() }()
				_, err := f.Update(t.Context(), func(rotation.State) (rotation.State, error) { return states[i], nil })
				if err == nil {
					t.Error("no error")
				}
			}()
			got, err := rotation.File{Path: f.Path}.Read()
			if err != nil {
				t.Fatalf("%s: %v", at, err)
			}
			want := states[i-1]
			if at == "renamed" {
				want = states[i]
			}
			if !got.Equal(want) {
				t.Errorf("%s: revision %d", at, got.Revision)
			}
			must(t, got, nil)
			f.Write = nil
			if _, err := f.Update(t.Context(), func(rotation.State) (rotation.State, error) {
				return states[i], nil
			}); err != nil {
				t.Errorf("%s: the next command: %v", at, err)
			}
			if back, err := os.ReadFile(f.Path); err != nil || !bytes.Equal(back, data) {
				t.Errorf("%s: %v", at, err)
			}
		}
	}
}

// A newer state file is refused by its name and version, whatever else is in it.
func TestVersion(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "state.json")
	if err := os.WriteFile(name, []byte(`{"version": 2, "chains": {"form": "unknown"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	f := rotation.File{Path: name}
	_, err := f.Read()
	var version *rotation.VersionError
	if !errors.As(err, &version) || version.Version != 2 || !strings.Contains(err.Error(), name) {
		t.Errorf("%v", err)
	}
	if _, err := f.Update(t.Context(), func(rotation.State) (rotation.State, error) {
		t.Error("the change of a file that cannot be read")
		return rotation.State{}, nil
	}); !errors.As(err, &version) {
		t.Error(err)
	}
}

// An invalid state is refused.
func TestParse(t *testing.T) {
	t.Parallel()
	good, err := two(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(map[string]any, []any){
		"two active":     func(_ map[string]any, c []any) { c[1].(map[string]any)["status"] = "active" },
		"none active":    func(_ map[string]any, c []any) { c[0].(map[string]any)["status"] = "prepared" },
		"unknown status": func(_ map[string]any, c []any) { c[1].(map[string]any)["status"] = "dormant" },
		"unknown member": func(m map[string]any, _ []any) { m["owner"] = "x" },
		"one name":       func(_ map[string]any, c []any) { c[1].(map[string]any)["name"] = "old" },
		"bad name":       func(_ map[string]any, c []any) { c[1].(map[string]any)["name"] = "../old" },
		"one certificate": func(_ map[string]any, c []any) {
			c[1].(map[string]any)["certificates"] = c[0].(map[string]any)["certificates"]
		},
		"no certificate":    func(_ map[string]any, c []any) { c[1].(map[string]any)["certificates"] = []any{} },
		"junk certificate":  func(_ map[string]any, c []any) { c[1].(map[string]any)["certificates"] = []any{"AAAA"} },
		"retired, no end":   func(_ map[string]any, c []any) { c[1].(map[string]any)["status"] = "retired" },
		"no chains":         func(m map[string]any, _ []any) { m["chains"] = []any{} },
		"version is a text": func(m map[string]any, _ []any) { m["version"] = "1" },
	} {
		m := map[string]any{}
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		change(m, m["chains"].([]any))
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rotation.Parse(data); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, text := range []string{"", "{}", "null", string(good) + "{}", string(good[:len(good)/2])} {
		if _, err := rotation.Parse([]byte(text)); err == nil {
			t.Errorf("%.20q: no error", text)
		}
	}
	if _, err := rotation.Parse(good); err != nil {
		t.Error(err)
	}
}

// Two concurrent writers do not lose a change, and the wait for a held lock is bounded.
func TestLock(t *testing.T) {
	t.Parallel()
	f := rotation.File{Path: filepath.Join(t.TempDir(), "state.json")}
	s := two(t)
	if _, err := f.Update(t.Context(), func(rotation.State) (rotation.State, error) { return s, nil }); err != nil {
		t.Fatal(err)
	}
	begun, release := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := f.Update(context.Background(), func(s rotation.State) (rotation.State, error) {
			close(begun)
			<-release
			return s.Abort("new", entry(start, "x"))
		})
		done <- err
	}()
	<-begun
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := f.Update(short, func(s rotation.State) (rotation.State, error) { return s, nil }); err == nil ||
		!strings.Contains(err.Error(), "another process") {
		t.Errorf("%v", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got, err := f.Read(); err != nil || len(got.Chains) != 1 {
		t.Errorf("%v, %v", got.Chains, err)
	}
}

// The history is bounded, and revisions continue to increase.
func TestHistory(t *testing.T) {
	t.Parallel()
	s := two(t)
	lost := ready()
	lost.Places[0].Has = false
	for i := range 1200 {
		f := ready()
		if i%2 == 1 {
			f = lost
		}
		s, _ = s.Observe("new", seen(f, start), "test")
	}
	if len(s.History) != 1000 || s.Revision != 1202 || s.History[999].Revision != 1202 {
		t.Errorf("%d entries, revision %d", len(s.History), s.Revision)
	}
	must(t, s, nil)
}

func TestConfig(t *testing.T) {
	t.Parallel()
	d := func(v time.Duration) *time.Duration { return &v }
	for name, c := range map[string]struct {
		config rotation.Config
		ok     bool
	}{
		"empty":              {rotation.Config{}, true},
		"at once":            {rotation.Config{Propagation: d(0)}, true},
		"negative":           {rotation.Config{Propagation: d(-1)}, false},
		"kept for too short": {rotation.Config{Keep: d(time.Minute)}, false},
	} {
		if err := c.config.Check(); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(rotation.Config{}.Warnings()) != 0 || len(rotation.Config{Propagation: d(time.Minute)}.Warnings()) != 1 {
		t.Error("warnings")
	}
	for name, c := range map[string]struct {
		config rotation.RenewConfig
		ok     bool
	}{
		"empty":              {rotation.RenewConfig{}, false},
		"defaults":           {rotation.RenewConfig{Dir: "x"}, true},
		"a share above one":  {rotation.RenewConfig{Dir: "x", At: 1.5}, false},
		"no time to publish": {rotation.RenewConfig{Dir: "x", Life: d(72 * time.Hour)}, false},
		"a week":             {rotation.RenewConfig{Dir: "x", Life: d(168 * time.Hour)}, true},
	} {
		if err := c.config.Check(rotation.Config{}.Policy()); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := two(t)
	active, _ := s.Active()
	cert := active.Certificates()[0]
	due := cert.NotBefore.Add(time.Duration(float64(cert.NotAfter.Sub(cert.NotBefore)) * .5))
	r := rotation.RenewConfig{At: .5}
	if r.Due(active, due.Add(-time.Minute)) || !r.Due(active, due.Add(time.Minute)) {
		t.Error("due")
	}
}

// FuzzParse: what is accepted is a state that can be written and reads back the same.
func FuzzParse(f *testing.F) {
	p := pki.New(pki.Options{Now: start})
	s, err := rotation.First("a", p.Chain, entry(start, "first"))
	if err != nil {
		f.Fatal(err)
	}
	data, err := s.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := rotation.Parse(data)
		if err != nil {
			return
		}
		out, err := s.Encode()
		if err != nil {
			t.Fatalf("accepted, and cannot be written: %v", err)
		}
		if back, err := rotation.Parse(out); err != nil || !back.Equal(s) {
			t.Fatalf("does not read back: %v", err)
		}
		if _, ok := s.Active(); !ok && status(s, s.Chains[0].Name) == "" {
			t.Fatal("no status")
		}
	})
}
