package policy

import (
	"fmt"
)

// A cookie's name is a token, as a header's is (RFC 6265).
var cookieName = headerPattern

// checkCookies checks what a match says of cookies.
func (m *Match) checkCookies(c *checker, path string) {
	for i := range m.Cookies {
		at := fmt.Sprintf("%s[%d]", path, i)
		c.cookieName(at+".name", m.Cookies[i].Name)
		m.Cookies[i].check(c, at)
	}
}

func (c *checker) cookieName(path, name string) {
	if !cookieName.MatchString(name) {
		c.problem(path, "", "%q is no cookie's name", name)
	}
}
