// Package durable writes files that a crash leaves whole.
package durable

import (
	"errors"
	"os"
	"path/filepath"
)

// Write gives a file another content, which is on disk when it returns. A crash leaves the old or the new one. Only its
// owner can read it.
func Write(name string, data []byte) error {
	next, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = next.Write(data)
	if err := errors.Join(err, next.Sync(), next.Close()); err != nil {
		return err
	}
	if err := os.Rename(next.Name(), name); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
