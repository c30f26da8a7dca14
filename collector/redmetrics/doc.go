// Package redmetrics is a connector that makes metrics of spans: rate, errors and duration of each operation of each
// version of each service.
//
// A span counts for as many as its tracestate says (ot=th:…): the inverse of the probability with which it was kept.
// The sums are those of all spans there were, without bias, wherever they were sampled and however often; where nothing was
// sampled, they are exact. Nothing is rounded at random: a counter is the sum of adjusted counts, and a bucket of a
// histogram is off by less than one however long it counts.
//
// Requests that come undecoded (collector/lazy) are counted where they lie, as their pdata would be.
//
// What it holds is bounded: beyond so many series, spans are counted in one series that says so
// (otel.metric.overflow), so that the totals stay right.
package redmetrics
