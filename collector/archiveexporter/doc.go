// Package archiveexporter is an exporter that archives spans in an S3 bucket, as gzipped OTLP in the layout of
// package archive: one object for each service, class and retention in a batch.
//
// Batches are split by these after the queue, so that batching in the queue can't mix them. What was not written is
// tried again, and only that. A batch sent twice, after a crash say, overwrites its own objects where the queue cut
// it the same way; otherwise spans may be archived twice, but never lost: no error is taken for final, because a
// missing bucket or a refused key can be mended while the queue holds what it has.
package archiveexporter
