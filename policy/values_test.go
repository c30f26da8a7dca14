package policy

import "testing"

func TestSizesAreReadAndWritten(t *testing.T) {
	for text, want := range map[string]struct {
		bytes Size
		form  string
	}{
		"0": {0, "0"}, "512": {512, "512"}, "7B": {7, "7"}, "4KB": {4000, "4KB"}, "1000": {1000, "1KB"}, "64MiB": {64 << 20, "64MiB"}, "1GB": {1e9, "1GB"},
	} {
		var s Size
		if err := s.parse(text); err != nil || s != want.bytes || s.String() != want.form {
			t.Errorf("%s: %d, %s, %v; want %d, %s", text, s, s, err, want.bytes, want.form)
		}
	}
	for _, text := range []string{"", "-1", "4kb", "1.5MB", "KB", "9223372036854775807KB", "4 KB"} {
		if err := new(Size).parse(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}
