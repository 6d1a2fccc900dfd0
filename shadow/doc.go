// Package shadow stands in front of a running certificate authority, the upstream, and compares its answers with those
// that the CA of another configuration would give.
//
// A [Proxy] gets every request that clients send. The request goes to the upstream, and its answer to the client, both
// byte for byte; trailers and streams too. When a client has its answer, a copy of a request for a certificate and of
// the answer enters a queue of limited size. Workers take it from there, have the [Own] side decide the same request,
// and write what differs to a [Store]. A [Report] counts the kinds of differences.
//
// Nothing about a comparison may change what a client gets: a full queue drops the copy, a panic ends one comparison, a
// full disk ends one record, and each is counted. The own side has no key. The one exception is [Plan]: requests of the
// identities that it selects are sent to the candidate, a running CA, and to the upstream if the candidate fails before
// it has answered.
//
// Tokens, proofs and keys MUST stay in memory. Values of certificates are stored as digests under a key that exists
// only while the process runs, unless the operator asks for the values.
package shadow
