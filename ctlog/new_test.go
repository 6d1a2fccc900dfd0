package ctlog_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/testkit/settings"
)

// B2: New refuses a set in which a log could count twice, or that cannot meet its policy.
func TestNewRefuses(t *testing.T) {
	t.Parallel()
	a, b := newLog(t).asLog(t, "a"), newLog(t).asLog(t, "b")
	nameless, same, twin, weak, deaf := a, b, a, b, b
	nameless.Name, same.Name, twin.Name, deaf.Submitter = "", "a", "twin", nil
	small, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak.Key = small.Public()
	for _, row := range []struct {
		name string
		o    ctlog.Options
		text string
	}{
		{"no configured", ctlog.Options{}, "no log"},
		{"no name", ctlog.Options{Logs: []ctlog.Log{nameless}}, "without name"},
		{"no submitter", ctlog.Options{Logs: []ctlog.Log{deaf}}, "without submitter"},
		{"one name", ctlog.Options{Logs: []ctlog.Log{a, same}}, "two logs have the name"},
		{"one key", ctlog.Options{Logs: []ctlog.Log{a, twin}}, "same key"},
		{"weak key", ctlog.Options{Logs: []ctlog.Log{a, weak}}, "P-224"},
		{
			"more SCTs than logs",
			ctlog.Options{Logs: []ctlog.Log{a, b}, Policy: ctlog.PolicyConfig{MinSCTs: 3}},
			"policy.min_scts: 3 SCTs are required",
		},
		{
			"fewer than none",
			ctlog.Options{Logs: []ctlog.Log{a, b}, Policy: ctlog.PolicyConfig{MinSCTs: -1}},
			"policy.min_scts: invalid number of SCTs: -1",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			_, err := ctlog.New(row.o)
			if err == nil || !strings.Contains(err.Error(), row.text) || settings.Paths(err) == nil {
				t.Errorf("error is %v", err)
			}
		})
	}
}
