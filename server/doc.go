// Package server is the wire: gRPC and REST in, the one path of a request, gRPC and REST out.
//
// Both transports meet in [service]: a REST request is decoded by the gateway and handed to the same methods in process, and
// nobody dials himself. Each method runs inside observe, which gives it a request id, a deadline, a panic guard, metrics and
// one log record, and turns its error into a status.
//
// What a client reads of an error MUST come from package fault. A token, a proof or a key MUST NOT reach a log, a metric or
// an error.
package server
