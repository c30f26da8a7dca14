package otlplazy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
)

// TestConfigAsTheStockOne: what the collector's own receiver takes, this takes, and means the same.
func TestConfigAsTheStockOne(t *testing.T) {
	for _, protocols := range []map[string]any{
		{"grpc": nil},
		{"http": nil},
		{"grpc": map[string]any{}, "http": map[string]any{}},
		{"grpc": map[string]any{"endpoint": "127.0.0.1:1", "max_recv_msg_size_mib": 16, "tls": map[string]any{"cert_file": "a", "key_file": "b"}}},
		{"http": map[string]any{"traces_url_path": "spans", "cors": map[string]any{"allowed_origins": []any{"*"}}}},
	} {
		conf := confmap.NewFromStringMap(map[string]any{"protocols": protocols})
		ours, theirs := defaultConfig().(*Config), otlpreceiver.NewFactory().CreateDefaultConfig().(*otlpreceiver.Config)
		require.NoError(t, conf.Unmarshal(ours))
		require.NoError(t, conf.Unmarshal(theirs))
		require.Equal(t, theirs.Protocols, ours.Protocols)
		require.NoError(t, confmap.Validate(ours))
		require.False(t, ours.Undecoded)
	}
}

func TestConfigMistakes(t *testing.T) {
	for want, settings := range map[string]map[string]any{
		"protocols: must have grpc, http or both":              {},
		"protocols::http: /v1/logs is the path of two signals": {"protocols": map[string]any{"http": map[string]any{"traces_url_path": "/v1/logs"}}},
	} {
		cfg := defaultConfig().(*Config)
		require.NoError(t, confmap.NewFromStringMap(settings).Unmarshal(cfg))
		if err := confmap.Validate(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
