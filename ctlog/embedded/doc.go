// Package embedded is a Certificate Transparency log in the CA's own process: static-ct-api v1.0.0 on local disk.
//
// It accepts precertificates from its own process only and MUST NOT return an SCT before the entry is integrated into
// the tree and synced to disk. Its read path is public ([Store.Handler]), in the layout that every static-ct monitor
// reads: checkpoint, tiles, entry bundles, issuers. A log directory MUST be on a local file system, and is used by one
// process at a time.
//
// A [Store] is a sequence of shards, each a [Log] with a different key, that follow each other in time. Its files are
// checked by package monitor, as those of any other log.
package embedded
