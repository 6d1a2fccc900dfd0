// Package admission decides which requests are served now, which wait and which are refused.
//
// A [Controller] bounds the requests that are inside the server, and how many of them compute at once; the others wait
// in queues that are fair between source addresses. A [Budget] bounds something in total and by key, such as the
// requests that one source may have received at once. A [Limiter] bounds a rate by key. What the three count for is the
// [Source] of a request: its client's IPv4 address, or the /64 of its IPv6 address.
//
// To add a limit by source address, give the server a Budget (how many at once) or a Limiter (how many in a time) whose
// key is a Source, and let it refuse with RATE_LIMITED.
//
// Every bound here MUST hold whatever clients send: memory is bounded, one source cannot take the places of all others,
// and no number of other keys makes a limiter forget one that is over its limit.
package admission
