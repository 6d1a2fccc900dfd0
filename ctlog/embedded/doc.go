// Package embedded is a Certificate Transparency log in the CA's own process: static-ct-api v1.0.0 on local disk. It is
// the front end of package tlog that makes entries of precertificates and signs SCTs.
//
// It accepts precertificates from its own process only and MUST NOT return an SCT before the entry is integrated into
// the tree and synced to disk. Its read path is public ([Store.Handler]), in the layout that every static-ct monitor
// reads: checkpoint, tiles, entry bundles, issuers.
package embedded
