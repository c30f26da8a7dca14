//go:build !linux

package source

// closed says whether a file is known to be written to its end, which nobody tells here.
func closed(string) bool { return false }
