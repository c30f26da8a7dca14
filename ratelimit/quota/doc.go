// Package quota is Envoy's rate limit quota service (RLQS, envoy.service.rate_limit_quota.v3): proxies decide by
// themselves with quotas that are streamed to them, and report what they use. A bucket is a limit of the domain "weir" and
// a key: its id has "limit", the limit's ID, and what the limit is by.
//
// A limit is divided among the proxies that report on the bucket, by what they need: nobody has more than it needs while
// another lacks, and what is left is spread evenly.
//
// Guaranteed: what is promised at any time is in all never more than the limit. A promise holds until it is replaced or
// its time is over, also when its proxy has gone: so what a proxy does that can't be reached is counted in. How long that is
// is [LifeTime], or three of the proxy's reporting intervals. A proxy that lets requests pass before it has a quota
// (no_assignment_behavior) or after it (expired_assignment_behavior) does so beyond the limit, as does whatever a Weir that
// has restarted does not know of, until it is reported.
//
// Proxies decide by token buckets: at once as many as their share of the burst and one at least, and then evenly. A new
// share takes over how full the bucket was, so that a share that grows adds at most what it grows by.
package quota
