// Package redis keeps the counters of rate limits in Redis, which all replicas of Weir share: one server, one that
// Sentinel looks after, or a Cluster.
//
// What is decided is decided by a script (decide.lua) in the arithmetic of [ratelimit.Rate], by Redis's own clock, so
// that the clocks of replicas don't matter; all hits of a question in one script, all or none. While scripts are under
// way, what comes is gathered for the next one; what nobody waits for, for some milliseconds. A key of which there may be nothing is written
// instead, unless it is there. In a Cluster a script reaches one slot: the hits of a question whose keys
// lie in several are counted slot by slot, and what was counted is given back where another slot refuses, so that others
// may be refused in between but nobody passes for it. A prefix with a hash tag ({weir}:) puts all keys in one slot.
//
// A key that is asked about is leased: a part of what is left of it is counted in Redis, and decided here, as much as goes
// by how it is asked for is used in twenty seconds, and of a new one a little, where that comes free by itself. Leased is what nobody else can be granted, and used only
// where a limit that is asked about each time would let it pass too. So leases never let more pass; what other
// replicas hold and don't use is what a limit may be short of meanwhile. A lease that is used up is renewed before somebody has to wait
// for that. A key that is known to be used up is refused without a question. One of which little is used, as far as is known here, may
// pass before Redis is told of it, within a bound that is part of the limit.
//
// Nobody waits in a goroutine of its own: who has to is told, with all who were decided together.
//
// Where Redis can't be asked, a replica counts by itself at its fair share of each limit, or where the policy says so
// gives [ratelimit.ErrUnavailable]; see [Options].
package redis
