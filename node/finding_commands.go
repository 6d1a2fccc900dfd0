package node

import (
	"fmt"
	"strings"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/shell"
	"github.com/mayfly-ca/mayfly/reconcile"
)

// NextSteps says what to run next for a finding: lines for a POSIX shell, made of what the configuration says, of
// numbers and of hexadecimal digits alone. Nothing of an entry, such as the identity in it, stands in them.
type NextSteps struct {
	Path   string // of the configuration file; "": there is none, and the journal is named by its path
	Config *config.Config
	alarms bool // findings are alarms of a running CA, which an operator closes
}

// journal is how a command names the journal of the configuration; "" where there is none.
func (n NextSteps) journal() string {
	switch {
	case n.Config.Audit == nil || n.Config.Audit.File == "":
		return ""
	case n.Path == "":
		return shell.Quote(n.Config.Audit.File)
	}
	return "--config " + shell.Quote(n.Path)
}

// Commands implements [reconcile.Input.Commands] and [reconcile.AuditorOptions.Commands].
func (n NextSteps) Commands(f reconcile.Finding) (out []string) {
	journal := n.journal()
	if f.Index != nil {
		if text := n.entry(f.Log, *f.Index); text != "" {
			out = append(out, text)
		}
	}
	if journal != "" {
		if f.Serial != "" {
			out = append(out, fmt.Sprintf("mayfly audit query %s --serial %s --intents", journal, f.Serial))
		}
		switch f.Kind {
		case reconcile.JournalBroken, reconcile.OutcomeWithoutIntent, reconcile.SignaturesUncounted:
			name := journal
			if f.Journal != n.Config.Audit.File {
				name = shell.Quote(f.Journal)
			}
			out = append(out, "mayfly audit verify "+name)
		case reconcile.UnintendedEntry, reconcile.SubordinateCA, reconcile.CertificateWithoutOutcome,
			reconcile.SerialReused:
			out = append(out, "mayfly audit verify "+journal)
		}
	}
	if n.Path == "" {
		return out
	}
	if f.Log != "" && journal != "" {
		out = append(out, fmt.Sprintf("mayfly audit reconcile %s --log %s", journal, shell.Quote(f.Log)))
	}
	if f.Kind == reconcile.LogMismatch || f.Kind == reconcile.LogShrunk {
		if n.embedded(f.Log) {
			out = append(out, "mayfly log fsck --config "+shell.Quote(n.Path))
		}
	}
	if n.alarms && journal != "" {
		which := "--alarm " + f.ID
		if f.Kind.LogViolation() {
			which = "--log " + shell.Quote(f.Log)
		}
		out = append(out, fmt.Sprintf("mayfly audit clear %s %s --yes  # when it was dealt with", journal, which))
	}
	return out
}

// entry is how the entry of a log is read; "" where no command can.
func (n NextSteps) entry(log string, index uint64) string {
	for _, l := range n.Config.CT.Logs {
		switch {
		case l.Name != log:
		case l.MonitoringURL != "":
			return fmt.Sprintf("mayfly log export %s --public-key %s --origin %s --from %d --to %d",
				shell.Quote(l.MonitoringURL), shell.Quote(l.PublicKey), shell.Quote(l.Origin), index, index+1)
		default:
			return fmt.Sprintf("curl -s %s", shell.Quote(fmt.Sprintf("%s/ct/v1/get-entries?start=%d&end=%d",
				strings.TrimRight(l.URL, "/"), index, index)))
		}
	}
	if c := n.Config.CT.Embedded; c != nil {
		shards, err := c.Shards()
		if err != nil {
			return ""
		}
		for _, s := range shards {
			if s.Label() == log {
				return fmt.Sprintf("mayfly log export --dir %s --from %d --to %d",
					shell.Quote(c.ShardDir(s)), index, index+1)
			}
		}
	}
	return ""
}

func (n NextSteps) embedded(log string) bool {
	if n.Config.CT.Embedded == nil {
		return false
	}
	for _, l := range n.Config.CT.Logs {
		if l.Name == log {
			return false
		}
	}
	return true
}
