package policy

import (
	"regexp"
	"slices"
	"strings"
)

// arguments is what a command operator takes in brackets.
type arguments int

const (
	never     arguments = iota
	sometimes           // a form of its own, such as a time's
	always              // and a length after it, such as %REQ(x-id):8%
	named               // as always, and the name of a header, or NAME?OTHER
	typed               // as always, and after the name :PLAIN or :TYPED at most
	unlimited           // as always, without a length
)

// operators are Envoy 1.40's command operators for header values. Not among them are those of which Envoy's own
// documentation has nothing, and those of requests that are over.
var operators = func() map[string]arguments {
	all := map[string]arguments{
		"REQ": named, "RESP": named, "QUERY_PARAM": always, "ENVIRONMENT": always, "DYNAMIC_METADATA": always,
		"FILTER_STATE": typed, "CLUSTER_METADATA": unlimited, "UPSTREAM_METADATA": unlimited,
		"START_TIME": sometimes, "START_TIME_LOCAL": sometimes, "EMIT_TIME": sometimes, "RESPONSE_CODE_DETAILS": sometimes,
		"UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": sometimes, "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": sometimes,
		"DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": sometimes, "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": sometimes,
		"DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": sometimes,
	}
	for name := range strings.FieldsSeq(`
		ACCESS_LOG_TYPE BYTES_RECEIVED BYTES_SENT CONNECTION_ID CONNECTION_TERMINATION_DETAILS
		DOWNSTREAM_DIRECT_REMOTE_ADDRESS DOWNSTREAM_DIRECT_REMOTE_PORT DOWNSTREAM_LOCAL_ADDRESS DOWNSTREAM_LOCAL_PORT
		DOWNSTREAM_LOCAL_SUBJECT DOWNSTREAM_LOCAL_URI_SAN DOWNSTREAM_PEER_CERT DOWNSTREAM_PEER_FINGERPRINT_256
		DOWNSTREAM_PEER_ISSUER DOWNSTREAM_PEER_SERIAL DOWNSTREAM_PEER_SUBJECT DOWNSTREAM_PEER_URI_SAN
		DOWNSTREAM_REMOTE_ADDRESS DOWNSTREAM_REMOTE_PORT DOWNSTREAM_TLS_CIPHER DOWNSTREAM_TLS_VERSION
		DOWNSTREAM_TRANSPORT_FAILURE_REASON DURATION FILTER_CHAIN_NAME GRPC_STATUS GRPC_STATUS_NUMBER HOSTNAME PATH PROTOCOL
		QUERY_PARAMS REQUESTED_SERVER_NAME REQUEST_DURATION REQUEST_HEADERS_BYTES REQUEST_TX_DURATION RESPONSE_CODE
		RESPONSE_DURATION RESPONSE_FLAGS RESPONSE_FLAGS_LONG RESPONSE_HEADERS_BYTES RESPONSE_TX_DURATION ROUTE_NAME SPAN_ID
		STREAM_ID TLS_JA3_FINGERPRINT TRACE_ID UNIQUE_ID UPSTREAM_CLUSTER UPSTREAM_CLUSTER_RAW UPSTREAM_CONNECTION_ID
		UPSTREAM_CONNECTION_POOL_READY_DURATION UPSTREAM_HEADER_BYTES_SENT UPSTREAM_HOST UPSTREAM_HOST_NAME
		UPSTREAM_HOST_NAME_WITHOUT_PORT UPSTREAM_LOCAL_ADDRESS UPSTREAM_LOCAL_PORT UPSTREAM_PEER_SUBJECT UPSTREAM_PROTOCOL
		UPSTREAM_REMOTE_ADDRESS UPSTREAM_REMOTE_PORT UPSTREAM_REQUEST_ATTEMPT_COUNT UPSTREAM_TLS_CIPHER UPSTREAM_TLS_VERSION
		UPSTREAM_TRANSPORT_FAILURE_REASON VIRTUAL_CLUSTER_NAME`) {
		all[name] = never
	}
	return all
}()

// Operators gives one use of each command operator that a header's value may have, sorted.
func Operators() []string {
	var all []string
	for name, args := range operators {
		switch args {
		case never, sometimes:
			all = append(all, "%"+name+"%")
		case named:
			all = append(all, "%"+name+"(x):5%")
		case typed:
			all = append(all, "%"+name+"(x:TYPED):5%")
		case always:
			all = append(all, "%"+name+"(x:y):5%")
		case unlimited:
			all = append(all, "%"+name+"(x:y)%")
		}
	}
	slices.Sort(all)
	return all
}

// operator is %NAME%, %NAME(ARGUMENT)% or %NAME(ARGUMENT):LENGTH%; an argument may have a % in it.
var operator = regexp.MustCompile(`^%([A-Z0-9_]+)(?:\(([^)]*)\))?(:[0-9]{1,5})?%`)

var headerArgument = regexp.MustCompile("^:?[!#$&'*+.^_`|~0-9A-Za-z-]+(\\?:?[!#$&'*+.^_`|~0-9A-Za-z-]+)?$")

// headerValue checks a value with Envoy's command operators in it.
func (c *checker) headerValue(path, s string) {
	if strings.ContainsAny(s, "\r\n\x00") || len(s) > 16384 {
		c.problem(path, "", "want one line of at most 16384 bytes")
		return
	}
	for rest := s; ; {
		at := strings.IndexByte(rest, '%')
		if at < 0 {
			return
		}
		rest = rest[at:]
		if strings.HasPrefix(rest, "%%") {
			rest = rest[2:]
			continue
		}
		m := operator.FindStringSubmatch(rest)
		if m == nil {
			c.problem(path, "", "want Envoy's command operators as %%NAME%% or %%NAME(ARGUMENT)%%, and %%%% for a %% itself, in %q", s)
			return
		}
		if !c.operator(path, m) {
			return
		}
		rest = rest[len(m[0]):]
	}
}

func (c *checker) operator(path string, m []string) bool {
	whole, name, argument, length := m[0], m[1], m[2], m[3]
	args, ok := operators[name]
	if !ok {
		c.problem(path, closest(name, operators), "%s: Envoy has no command operator of that name; %%%% is for a %% itself", whole)
		return false
	}
	blank := strings.TrimSpace(argument) == ""
	_, kind, _ := strings.Cut(argument, ":")
	switch {
	case args == never && (argument != "" || length != ""):
		c.problem(path, "", "%s takes nothing in brackets and no length: write %%%s%%", whole, name)
	case args >= always && blank:
		c.problem(path, "", "%s lacks what it is of, such as %%%s(x-name)%%", whole, name)
	case args == named && !headerArgument.MatchString(argument):
		c.problem(path, "", "%s: want the name of a header, or NAME?OTHER for another one where it is absent", whole)
	case args == typed && kind != "" && kind != "PLAIN" && kind != "TYPED":
		c.problem(path, "", "%s: want %%%s(NAME)%%, with :PLAIN or :TYPED after the name at most", whole, name)
	case (args == sometimes || args == unlimited) && length != "":
		c.problem(path, "", "%s takes no length", whole)
	default:
		return true
	}
	return false
}
