// Package otlplazy is a receiver of OTLP over gRPC and HTTP which decodes spans only where it must.
//
// It has the settings of the collector's own receiver (otlp) and answers as that does. With `undecoded`, a request of spans in
// protobuf is checked to be well formed and handed on as it came (package lazy), so that what a sampler drops was never
// decoded. Where no component takes it so, it is decoded and handed on as usual: nothing is lost. Everything else, which is
// JSON, logs and metrics, is always decoded.
//
// That holds where each component behind the receiver takes such requests, or none does. Where several pipelines share
// one receiver and only some take them, the others would miss their spans. Package lazyconverter sets `undecoded` where it
// is right, and refuses it where it is not.
//
// A request is the receiver's memory until it is answered, and is then written over by the next.
package otlplazy
