// Package tlog is a transparency log on local disk, in the process that adds the entries: a Merkle tree of tiles
// (c2sp.org/tlog-tiles) written by Tessera, with group commit, shards with different keys, witnesses, and repair after
// storage errors.
//
// It has two front ends, each with its own [Kind] of log: package ctlog/embedded, a Certificate Transparency log
// (c2sp.org/static-ct-api), and package rekor, a log of signatures (Rekor v2). This package knows neither the content
// of an entry nor who may add one: a front end MUST check an entry before it is added.
//
// An index is returned only after the entry is integrated into the tree and synced to disk ([Log.Append]), and an
// inclusion proof only after the checkpoint that covers it is ([Log.Add]). A checkpoint MUST NOT be published after
// another one that covers more entries. The read path is public ([Store.Handler]). A log directory MUST be on a local
// file system, and is used by one process at a time.
//
// A [Store] is a sequence of shards, each a [Log] with a different key, that follow each other in time. Their files are
// checked by package monitor, as those of any other log.
package tlog
