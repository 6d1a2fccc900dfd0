package reconcile_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/reconcile"
)

// G1: an invalid setting is refused, and the error names the setting.
func TestConfig(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		err  error
		want string // prefix of the error; "": no error
	}{
		{"nothing", (*reconcile.Config)(nil).Check(), ""},
		{"defaults", (&reconcile.Config{}).Check(), ""},
		{"off", (&reconcile.Config{Every: "off"}).Check(), ""},
		{"all", (&reconcile.Config{Every: "30s", Journals: []string{"/a/*.jsonl"}, Lag: time.Hour}).Check(), ""},
		{"not a duration", (&reconcile.Config{Every: "often"}).Check(), "every"},
		{"too often", (&reconcile.Config{Every: "10ms"}).Check(), "every"},
		{"not a pattern", (&reconcile.Config{Journals: []string{"a", "[x"}}).Check(), "journals.1"},
		{"negative lag", (&reconcile.Config{Lag: -1}).Check(), "lag"},
		{"no webhook", (*reconcile.AlarmConfig)(nil).Check(), ""},
		{"https", hook("https://a.example.com/x").Check(), ""},
		{"loopback", hook("http://127.0.0.1:1/x").Check(), ""},
		{"no url", hook("").Check(), "webhook.url"},
		{"plain http", hook("http://a.example.com").Check(), "webhook.url"},
		{"another scheme", hook("ftp://a.example.com").Check(), "webhook.url"},
		{"a password", hook("https://a:b@a.example.com").Check(), "webhook.url"},
		{"two secrets", (&reconcile.AlarmConfig{Webhook: &reconcile.WebhookConfig{
			URL:    "https://a.example.com",
			Bearer: &secret.Source{Env: "A", File: "b"},
		}}).Check(), "webhook.bearer"},
	} {
		if c.want == "" {
			if c.err != nil {
				t.Errorf("%s: %v", c.name, c.err)
			}
			continue
		}
		got := fault.Under(c.err)
		if got == nil || !strings.HasPrefix(got.Error(), c.want) {
			t.Errorf("%s: %v, want an error at %s", c.name, c.err, c.want)
		}
	}
	if (&reconcile.Config{Every: "off"}).Period() != 0 || (*reconcile.Config)(nil).Period() != time.Minute {
		t.Error("wrong period")
	}
}

func hook(url string) *reconcile.AlarmConfig {
	return &reconcile.AlarmConfig{Webhook: &reconcile.WebhookConfig{URL: url}}
}

// Every kind has a row in the manual, a severity and an action.
func TestManual(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/reconcile.md")
	must(t, err)
	for _, k := range reconcile.Kinds() {
		if !strings.Contains(string(page), "\n| `"+string(k)+"` |") || k.Action() == "" || k.Severity() == "" {
			t.Errorf("%s has no row, action or severity", k)
		}
	}
}

// An arbitrary state is refused, or an auditor continues from it and saves a state that is accepted again.
func FuzzState(f *testing.F) {
	h := newHarness(f, 1, 1)
	c := h.newCertificate()
	h.intend(0, c)
	h.log(0, c)
	h.signOutsideCA(0, false)
	h.intend(0, h.newCertificate())
	h.publish()
	state := ""
	a, err := reconcile.NewAuditor(reconcile.AuditorOptions{
		Every: time.Minute, Now: h.now, Lag: time.Hour,
		Save:     func(data []byte) error { state = string(data); return nil },
		Journals: func() ([]reconcile.Journal, error) { return h.journalList(), nil },
	})
	must(f, err)
	a.Configure(h.scope(f))
	a.RunOnce(f.Context())
	f.Add(state)
	none := func() ([]reconcile.Journal, error) { return nil, nil }
	f.Fuzz(func(t *testing.T, data string) {
		var out string
		a, err := reconcile.NewAuditor(reconcile.AuditorOptions{
			Every: time.Minute, Load: func() ([]byte, error) { return []byte(data), nil },
			Save:     func(b []byte) error { out = string(b); return nil },
			Journals: none,
		})
		if err != nil {
			return
		}
		a.RunOnce(t.Context())
		if _, err := reconcile.NewAuditor(reconcile.AuditorOptions{
			Every: time.Minute, Journals: none,
			Load: func() ([]byte, error) { return []byte(out), nil },
		}); err != nil {
			t.Errorf("a state is accepted, and refused after it was saved again: %v", err)
		}
	})
}

// The state of another version is refused: a newer one with both versions and a choice, and an older one with the cure.
func TestStateOfOtherFormat(t *testing.T) {
	t.Parallel()
	for state, want := range map[string]string{
		`{"version":2}`: "a newer mayfly wrote the state of the auditor (format 2; this version " +
			"reads 1); use that version",
		`{"version":0}`: "the state of the auditor has the format 0, not 1; remove it",
		`{}`:            "the state of the auditor has the format 0, not 1; remove it",
	} {
		_, err := reconcile.NewAuditor(reconcile.AuditorOptions{
			Every: time.Minute, Now: time.Now, Load: func() ([]byte, error) { return []byte(state), nil },
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", state, err)
		}
	}
}
