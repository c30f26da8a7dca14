// Package archive is the layout of the trace archive: how objects are named, and what is in them.
//
// An object holds spans of one service, of one class and with one retention, as an OTLP ExportTraceServiceRequest
// (the same bytes as TracesData) in protobuf, gzipped:
//
//	[PREFIX/]retention=90d/class=main/service=shop.checkout/date=2026-11-23/hour=12/HASH.otlp.pb.gz
//
// Date and hour, in UTC, are those of its earliest span. HASH is of the content: writing the same spans again
// overwrites the object that holds them, and different spans never share one. Retention comes first, so that one
// lifecycle rule a retention expires everything by its prefix; an object is expired as a whole.
//
// The package is pure: it opens no connections and reads no files.
package archive
