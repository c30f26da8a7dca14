package adaptivesampling

import "errors"

// Config is the processor's configuration.
type Config struct {
	// Policy are the files and directories of policy documents.
	Policy []string `mapstructure:"policy"`
	// Replicas is how many collectors share the traffic, and so the budget of the documents.
	Replicas int `mapstructure:"replicas"`
}

// Validate says what is missing.
func (c *Config) Validate() error {
	if len(c.Policy) == 0 {
		return errors.New("policy: must name at least one file or directory of policy documents")
	}
	if c.Replicas < 1 {
		return errors.New("replicas: must be at least 1")
	}
	return nil
}
