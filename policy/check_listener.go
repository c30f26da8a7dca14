package policy

import (
	"path"
	"strings"
)

var listenerProtocols = []string{"http", "https"}

var tlsVersions = []string{"1.2", "1.3"}

func (l *Listener) check(c *checker, at string) {
	c.name(at+".name", l.Name)
	c.between(at+".port", l.Port, 1, 65535)
	c.protocol(at+".protocol", l.Protocol, laterValues["listenerProtocol"], listenerProtocols)
	switch {
	case l.Protocol == "https" && l.TLS == nil:
		c.problem(at+".protocol", "", "https needs a certificate and its key: give tls")
	case l.Protocol != "https" && l.TLS != nil:
		c.problem(at+".tls", "", "this is of listeners with the protocol https")
	}
	if l.TLS != nil {
		l.TLS.check(c, at+".tls")
	}
	if l.HTTP3 && l.Protocol != "https" {
		c.problem(at+".http3", "", "this is of listeners with the protocol https")
	}
	if port := l.HTTPSRedirect; port != nil {
		c.between(at+".httpsRedirect", *port, 1, 65535)
		if l.Protocol == "https" {
			c.problem(at+".httpsRedirect", "", "this is of listeners with the protocol http")
		}
	}
}

func (t *ListenerTLS) check(c *checker, at string) {
	c.file(at+".certificate", t.Certificate)
	c.file(at+".key", t.Key)
	if t.MinVersion != "" {
		c.oneOf(at+".minVersion", t.MinVersion, tlsVersions)
	}
}

// file checks the path of a file on the proxy's machine, whose working directory nobody knows here.
func (c *checker) file(at, s string) {
	if !path.IsAbs(s) || strings.HasSuffix(s, "/") || strings.ContainsAny(s, "\x00\r\n") {
		c.problem(at, "", "want the path of a file on the proxy's machine, from /, got %q", s)
	}
}

func (l *Listener) defaults() {
	or(&l.Protocol, "http")
	if l.TLS != nil {
		or(&l.TLS.MinVersion, "1.2")
	}
}
