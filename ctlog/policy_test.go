package ctlog_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/testkit/settings"
)

// G1
func TestPolicyCheck(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		c    ctlog.PolicyConfig
		want []string
	}{
		{"nothing", ctlog.PolicyConfig{}, nil},
		{"everything", ctlog.PolicyConfig{
			MinSCTs: 2, MinOperators: 2, Parallel: 3, Stagger: time.Second,
			Attempt: 2 * time.Second, Budget: 10 * time.Second,
		}, nil},
		{
			"less than none",
			ctlog.PolicyConfig{MinSCTs: -1, MinOperators: -1, Parallel: -1},
			[]string{"min_scts", "min_operators", "parallel"},
		},
		{"more operators than SCTs", ctlog.PolicyConfig{MinSCTs: 2, MinOperators: 3}, []string{"min_operators"}},
		{"operators of one SCT", ctlog.PolicyConfig{MinOperators: 2}, []string{"min_operators"}},
		{"too few at once", ctlog.PolicyConfig{MinSCTs: 3, Parallel: 2}, []string{"parallel"}},
		{"one after the other", ctlog.PolicyConfig{Parallel: 1}, nil},
		{"budget of a request", ctlog.PolicyConfig{Budget: 20 * time.Second}, []string{"budget"}},
		{"nearly so", ctlog.PolicyConfig{Budget: 19999 * time.Millisecond}, nil},
		{"attempt beyond the budget", ctlog.PolicyConfig{Attempt: 13 * time.Second}, []string{"attempt"}},
		{"attempt of nothing", ctlog.PolicyConfig{Attempt: time.Millisecond}, []string{"attempt"}},
		{"no stagger", ctlog.PolicyConfig{Stagger: time.Millisecond}, []string{"stagger"}},
		{
			"back in time",
			ctlog.PolicyConfig{Stagger: -1, Attempt: -1, Budget: -1},
			[]string{"budget", "attempt", "stagger"},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(row.want, settings.Paths(row.c.Check())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// B2 // B4: a policy that these logs cannot meet is refused before the first request.
func TestPolicyCheckFor(t *testing.T) {
	t.Parallel()
	a, b, x, y, aside := ctlog.Slot{Name: "a", Embed: true}, ctlog.Slot{Name: "b", Embed: true},
		ctlog.Slot{Name: "x", Operator: "o", Embed: true},
		ctlog.Slot{Name: "y", Operator: "o", Embed: true}, ctlog.Slot{Name: "z", Operator: "p"}
	for _, row := range []struct {
		name  string
		c     ctlog.PolicyConfig
		slots []ctlog.Slot
		want  string
	}{
		{"one", ctlog.PolicyConfig{}, []ctlog.Slot{a}, ""},
		{"two without operator", ctlog.PolicyConfig{MinSCTs: 2, MinOperators: 2}, []ctlog.Slot{a, b}, ""},
		{
			"two of one operator",
			ctlog.PolicyConfig{MinSCTs: 2, MinOperators: 2},
			[]ctlog.Slot{x, y},
			"min_operators: SCTs from 2 operators are required, but the logs have 1",
		},
		{"two of one and another", ctlog.PolicyConfig{MinSCTs: 2, MinOperators: 2}, []ctlog.Slot{x, y, a}, ""},
		{
			"more than there are",
			ctlog.PolicyConfig{MinSCTs: 3},
			[]ctlog.Slot{a, b},
			"min_scts: 3 SCTs are required, each from a different log, but there are 2 logs",
		},
		{
			"one not embedded",
			ctlog.PolicyConfig{MinSCTs: 2},
			[]ctlog.Slot{a, aside},
			"2 SCTs are required, each from a different log, but there are 1 logs (1 with embed: false not counted)",
		},
		{
			"operator not embedded",
			ctlog.PolicyConfig{MinSCTs: 2, MinOperators: 2},
			[]ctlog.Slot{x, y, aside},
			"1 operators (1 with embed: false not counted)",
		},
		{"none embedded", ctlog.PolicyConfig{}, []ctlog.Slot{aside}, "no log's SCT may be embedded in a certificate"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			err := row.c.CheckFor(row.slots)
			if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("error is %v, want %q", err, row.want)
			}
		})
	}
}
