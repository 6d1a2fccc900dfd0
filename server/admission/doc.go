// Package admission decides which requests are served now, which wait and which are refused.
//
// A [Controller] bounds the requests that are inside the server, and how many of them compute at once; the others wait
// in queues that are fair between source addresses. A [Budget] bounds a number of places in total and by key, such as
// the requests that are being received from one source. A [Limiter] bounds a rate by key. The key of all three is
// usually the [Source] of a request: the IPv4 address of its client, or the /64 of its IPv6 address.
//
// To add a limit by source address, give the server a Budget (how many at once) or a Limiter (how often) whose key is a
// Source, and refuse with RATE_LIMITED.
//
// Every bound here MUST hold whatever clients send: memory is bounded, one source cannot take the places of all others,
// and a limiter never forgets a key that is over its limit, however many other keys there are.
package admission
