// Package adaptivesampling is a processor that keeps of each class of services, and of single operations, the share
// of spans that the policy documents say.
//
// Spans are judged one by one, each by its own service, and never held, unless the documents have traces judged whole
// (keep): then they are held, within bounds, until the trace is judged once. Decisions are consistent by trace id: of a
// trace, the spans judged at one rate are kept or dropped together, and what is kept at a lower rate is kept at
// every higher one. Kept spans carry the threshold in their tracestate (ot=th:…), and one that was sampled before
// is not sampled twice. New documents take effect without a restart.
package adaptivesampling
