// Package loadtest stops load tests from which real requests suffer. What that is, a load test's stopWhen says; how real
// requests fare, load reports of the proxies say (see [loadreport]).
//
// Only what is known counts: too few requests, proxies that are silent, gone or new, and time before the load test end
// none. A load test that has stopped stays so until its rule is edited, and over a restart where a file is given to
// [Open].
package loadtest
