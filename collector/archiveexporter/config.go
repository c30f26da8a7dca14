package archiveexporter

import (
	"errors"
	"time"

	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configretry"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
)

// Config is the exporter's configuration.
type Config struct {
	exporterhelper.TimeoutConfig `mapstructure:",squash"` // of one attempt at a batch

	// Policy are the files and directories of policy documents; the Retention document names the bucket.
	Policy []string `mapstructure:"policy"`
	// S3 overrides what the Retention document says of the bucket.
	S3 S3Config `mapstructure:"s3"`

	Queue   configoptional.Optional[exporterhelper.QueueBatchConfig] `mapstructure:"sending_queue"`
	Backoff configretry.BackOffConfig                                `mapstructure:"retry_on_failure"`
}

// S3Config says where the bucket is. Credentials come from the environment or wherever else the AWS SDK looks.
type S3Config struct {
	Bucket    string `mapstructure:"bucket"`   // its name only
	Prefix    string `mapstructure:"prefix"`   // of all names in it
	Region    string `mapstructure:"region"`   // "" is the document's
	Endpoint  string `mapstructure:"endpoint"` // "" is the document's, or else AWS
	PathStyle *bool  `mapstructure:"path_style"`
}

// Validate says what is missing.
func (c *Config) Validate() error {
	if len(c.Policy) == 0 {
		return errors.New("policy: must name at least one file or directory of policy documents")
	}
	return nil
}

func defaultConfig() *Config {
	backoff := configretry.NewDefaultBackOffConfig()
	backoff.MaxElapsedTime = 0 // for ever: what is queued is not thrown away because S3 is long in coming back
	return &Config{
		TimeoutConfig: exporterhelper.TimeoutConfig{Timeout: 30 * time.Second},
		Queue:         configoptional.Some(exporterhelper.NewDefaultQueueConfig()),
		Backoff:       backoff,
	}
}
