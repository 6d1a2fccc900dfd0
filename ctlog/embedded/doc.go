// Package embedded is a Certificate Transparency log in the CA's own process: static-ct-api v1.0.0 on local disk.
//
// It takes precertificates from its own process only and MUST NOT return an SCT before the entry is integrated into the tree
// and synced to disk. What it stores is read over HTTP by anybody ([Store.Handler]), in the layout that every static-ct monitor
// follows: checkpoint, tiles, entry bundles, issuers. A log directory MUST be on a local file system, and belongs to one
// process at a time.
//
// A [Store] is a row of shards, each a [Log] with a key of its own, of which one follows another in time. What is
// checked of it is checked from its files alone, by package monitor, as of any other log.
package embedded
