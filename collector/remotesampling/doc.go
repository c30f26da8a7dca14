// Package remotesampling is an extension that tells OpenTelemetry SDKs which share of their traces to begin, by Jaeger's
// remote sampling protocol over HTTP and gRPC: what the adaptive_sampling processors of this collector would keep.
//
// It learns from the processors by itself, and knows nothing of documents. A service or an operation of which nothing is
// known yet is to make everything: the processors drop what is too much. While no processor has rates, it gives no
// answer, and SDKs stay as they are.
package remotesampling
