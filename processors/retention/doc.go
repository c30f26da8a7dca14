// Package retention is a processor that writes on each resource how long its spans are to be kept: the attributes
// weir.retention, such as 90d, and weir.class.
//
// Both are what the policy documents say; values that senders put there are overwritten, except that weir.class
// gives the class of a service without a document. New documents take effect without a restart.
package retention
