// Package loadreport is Envoy's load reporting service (LRS, envoy.service.load_stats.v3): proxies tell how the requests
// fare that they send to a cluster. They are asked about the clusters that [Server.Ask] names and about no others, and
// while it names none they send nothing.
//
// [Server.Totals] sums up what all proxies have reported of a cluster since it was asked about. A proxy that is silent,
// or gone, adds nothing: what it would have told is not known, and nothing is made up for it. Reports that can't be are
// left out as a whole, and so are those of a time that is long over, as of a proxy that could not reach Weir.
//
// What Envoy (1.40) counts is tries at an endpoint: each retry is one more, and one that failed has failed even where
// the retry did not. Failed are answers of 5xx, for gRPC a status that stands for it, resets and timeouts; and what a
// circuit breaker of the cluster refused. What Envoy answers by itself before it has chosen an endpoint is not counted.
// A locality's counts are left out of a report in whose time no request began there. How long requests take is not
// reported; how many are under way is, from which a mean follows: see [Counts.Busy].
package loadreport
