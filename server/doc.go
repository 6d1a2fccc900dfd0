// Package server implements the API over gRPC and REST, with the one path of a request, and the admin pages.
//
// Both transports meet in [service]: the gateway decodes a REST request and calls the same methods in process. Each
// method runs inside observe, which gives it a request id, a deadline, a panic guard, metrics and one log record, and
// turns its error into a status.
//
// The text of an error for a client MUST come from package fault. A token, a proof or a key MUST NOT reach a log, a
// metric or an error.
package server
