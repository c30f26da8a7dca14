// Package serve gives proxies their resources: aggregated discovery (ADS), delta and state-of-the-world.
//
// A stream is sent what its proxy's view has and the proxy has not, by name and version; versions are hashes of the
// content, so that a proxy which comes back to a restarted Weir is sent only what changed. One response a type is in
// flight at a time: a slow proxy is sent the latest when it is ready, and costs nobody else anything. Clusters and
// endpoints go out before the listeners and routes that use them, and are taken away after; neither waits for longer
// than a few seconds. A cluster's endpoints bear the name that
// [xds.EndpointsOf] gives.
//
// A resource that a proxy refuses (NACK) is withdrawn for everybody: its last accepted version is served again, or
// nothing is changed where there is none, until a snapshot has another version of it. What came in the same response
// and was not to blame is sent again.
//
// A secret names files on the proxy's own machine, so that a refusal says something of that machine and nothing of the
// secret: it is told in the status of the proxy, which looks for the files by itself, and nothing is withdrawn.
//
// What many proxies share is kept, encoded and compared once: an [item] is a resource as it goes out, its bytes shared by
// all responses that it is in; a [shelf] is one type's items with the names in which it differs from the one before, and
// a stream looks at those names only. A shelf is made of the one before by what has changed, and views are made of those
// proxies only that have been here. What a stream has is told as the difference to a shelf.
//
// It does not translate, and it does not remember anything over a restart.
package serve
