package main

import (
	"github.com/mayfly-ca/mayfly/backup"
	"github.com/mayfly-ca/mayfly/ca/signer/backends"
	"github.com/mayfly-ca/mayfly/dev"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/reconcile"
	"github.com/mayfly-ca/mayfly/rotation"
	"github.com/mayfly-ca/mayfly/server/uses"
	"github.com/mayfly-ca/mayfly/shadow"
	"github.com/mayfly-ca/mayfly/tlog"
)

// include adds to the build information what this program includes: key backends, and the formats of its state. A
// version that is older than "reads_from" or newer than "writes" is refused.
func include(b *version.Info) {
	b.KeyBackends = backends.BuiltIn()
	b.State = []version.Format{
		{Name: "journal", Reads: 1, Writes: journal.Format},
		{Name: "list of shards", Reads: tlog.Format, Writes: tlog.Format},
		{Name: "rotation", Reads: rotation.Version, Writes: rotation.Version},
		{Name: "token uses", Reads: uses.Format, Writes: uses.Format},
		{Name: "auditor", Reads: reconcile.Format, Writes: reconcile.Format},
		{Name: "backup", Reads: 1, Writes: backup.Format},
		{Name: "shadow", Reads: 1, Writes: shadow.Format},
		{Name: "mayfly dev", Reads: 1, Writes: dev.Format},
	}
}
