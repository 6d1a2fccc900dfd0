// Package shared counts for several servers what each of them would otherwise count alone: how often tokens were used,
// and how often certificates are requested. The counts are in a store: Valkey, or Redis from version 6, as a single
// server, with sentinels, or as a cluster.
//
// A use of a token, or a request under a rate, goes in. [Store.Spend] and [Store.Take] decide with one script, which
// the store runs without anything else between its steps. Of any number of uses of one token at any number of servers,
// at most as many as allowed MUST be counted. If the store has lost its data, or a part of what it had acknowledged,
// the next use detects the loss: tokens that were issued before that time are refused, unless their issuer entry says
// otherwise. If the store does not answer, uses are refused or counted in this process, as the issuer entry says, and
// rates are counted in this process.
//
// The store gets hashes only: no token, no identity and no address. Each call has a time limit, the number of calls at
// once is bounded, and after several failures in a row no call is made until a probe succeeds.
package shared
