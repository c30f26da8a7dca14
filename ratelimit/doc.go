// Package ratelimit is the service that Envoys ask whether a request may pass: envoy.service.ratelimit.v3 over the
// limits of the policy, shared by all replicas that ask it.
//
// A limit of the policy lets Burst requests pass at once and then Requests per Per, evenly; there are no windows whose
// borders could be played. A [Rate] can count in windows too, fixed or sliding, as [Domain] has it. [Rate.Decide] is the
// whole of the arithmetic, exact and without a clock. A [Store] keeps one counter a key, and [Memory] is the one that
// is bounded and lost with the process; package redis has one that replicas share. [Service] speaks gRPC, and
// [Service.Server] does at a small part of its cost.
//
// Guaranteed: never one request more than a limit allows, and none fewer, however many ask at once, as long as the
// store holds as many keys as are in use; a refused request uses up no other limit; a limit that is not known
// refuses nobody.
package ratelimit
