package node

import (
	"fmt"
	"strings"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/shell"
	"github.com/mayfly-ca/mayfly/reconcile"
)

// findingCommands makes the commands that an operator runs next for a finding, one POSIX shell line each. The commands
// contain only values of the configuration, numbers and hexadecimal digits. They MUST NOT contain text from a log
// entry, such as an identity.
type findingCommands struct {
	path   string // the configuration file; "" if there is none, and then commands name the path of the journal
	config *config.Config
	alarms bool // the findings are alarms of a running CA, which an operator closes
}

// journal returns the argument that names the journal; "" if there is none.
func (c findingCommands) journal() string {
	switch {
	case c.config.Audit == nil || c.config.Audit.File == "":
		return ""
	case c.path == "":
		return shell.Quote(c.config.Audit.File)
	}
	return "--config " + shell.Quote(c.path)
}

// of returns the commands for a finding.
func (c findingCommands) of(f reconcile.Finding) (out []string) {
	journal := c.journal()
	if f.Index != nil {
		if text := c.entry(f.Log, *f.Index); text != "" {
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
			if f.Journal != c.config.Audit.File {
				name = shell.Quote(f.Journal)
			}
			out = append(out, "mayfly audit verify "+name)
		case reconcile.UnintendedEntry, reconcile.SubordinateCA, reconcile.CertificateWithoutOutcome,
			reconcile.SerialReused:
			out = append(out, "mayfly audit verify "+journal)
		}
	}
	if c.path == "" {
		return out
	}
	if f.Log != "" && journal != "" {
		out = append(out, fmt.Sprintf("mayfly audit reconcile %s --log %s", journal, shell.Quote(f.Log)))
	}
	if f.Kind == reconcile.LogMismatch || f.Kind == reconcile.LogShrunk {
		if c.embedded(f.Log) {
			out = append(out, "mayfly log fsck --config "+shell.Quote(c.path))
		}
	}
	if c.alarms && journal != "" {
		which := "--alarm " + f.ID
		if f.Kind.LogViolation() {
			which = "--log " + shell.Quote(f.Log)
		}
		out = append(out, fmt.Sprintf("mayfly audit clear %s %s --yes  # when it is resolved", journal, which))
	}
	return out
}

// entry returns the command that shows a log entry; "" if there is none.
func (c findingCommands) entry(log string, index uint64) string {
	for _, l := range c.config.CT.Logs {
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
	if e := c.config.CT.Embedded; e != nil {
		shards, err := e.Log().Shards()
		if err != nil {
			return ""
		}
		for _, s := range shards {
			if s.Label() == log {
				return fmt.Sprintf("mayfly log export --dir %s --from %d --to %d",
					shell.Quote(e.Log().ShardDir(s)), index, index+1)
			}
		}
	}
	return ""
}

// embedded reports whether a log is a shard of the embedded log.
func (c findingCommands) embedded(log string) bool {
	if c.config.CT.Embedded == nil {
		return false
	}
	for _, l := range c.config.CT.Logs {
		if l.Name == log {
			return false
		}
	}
	return true
}
