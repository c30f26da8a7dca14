package policy

func (r *Rule) checkMirror(c *checker, path string) {
	for i, m := range r.Mirror {
		at := item(path, i)
		if m.Percent != nil {
			c.percent(at+".percent", *m.Percent)
		}
		if m.Timeout != nil {
			c.duration(at+".timeout", *m.Timeout, false)
		}
	}
}

func (r *Rule) defaultMirror(service string, m Metadata) {
	for i := range r.Mirror {
		to := &r.Mirror[i]
		or(&to.Service, service)
		to.Service = resolve(to.Service, m)
		orNew(&to.Percent, 100)
		orNew(&to.Timeout, defaultTimeout)
	}
}
