package otlplazy

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"sync"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Content types of OTLP over HTTP.
const (
	typeProtobuf = "application/x-protobuf"
	typeJSON     = "application/json"
)

// bodies are buffers for requests.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// ServeHTTP answers one request.
func (s service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "want POST", http.StatusMethodNotAllowed)
		return
	}
	in, known := encodingOf(r)
	if !known {
		http.Error(w, "want Content-Type "+typeProtobuf+" or "+typeJSON, http.StatusUnsupportedMediaType)
		return
	}
	body := bodies.Get().(*bytes.Buffer)
	defer bodies.Put(body)
	body.Reset()
	if _, err := body.ReadFrom(r.Body); err != nil {
		code := http.StatusBadRequest
		if _, long := errors.AsType[*http.MaxBytesError](err); long {
			code = http.StatusRequestEntityTooLarge
		}
		refuse(w, r, fmt.Sprintf("read the request: %v", err), code)
		return
	}
	if err := s.take(r.Context(), body.Bytes(), in); err != nil {
		said := statusOf(err)
		answerStatus(w, in, httpCode(said.Code()), said)
		return
	}
	answer(w, in, http.StatusOK, nothing[in])
}

func encodingOf(r *http.Request) (in encoding, known bool) {
	switch kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); {
	case err != nil:
		return "", false
	case kind == typeProtobuf:
		return protobuf, true
	case kind == typeJSON:
		return jsonText, true
	default:
		return "", false
	}
}

// refuse answers what did not come to a signal. Who said nothing of the encoding is answered in JSON.
func refuse(w http.ResponseWriter, r *http.Request, message string, code int) {
	in, known := encodingOf(r)
	if !known {
		in = jsonText
	}
	answerStatus(w, in, code, status.New(grpcCode(code), message))
}

// answerStatus answers with a google.rpc.Status, as OTLP has it.
func answerStatus(w http.ResponseWriter, in encoding, code int, s *status.Status) {
	if seconds, asked := retryAfter(s); asked && (code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable) {
		w.Header().Set("Retry-After", seconds)
	}
	marshal := proto.Marshal
	if in == jsonText {
		marshal = protojson.Marshal
	}
	said := s.Proto()
	said.Message = strings.ToValidUTF8(said.GetMessage(), "\uFFFD") // it may repeat what was sent
	text, err := marshal(said)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, in, code, text)
}

// nothing is an export response that says nothing.
var nothing = map[encoding][]byte{protobuf: nil, jsonText: []byte("{}")}

func answer(w http.ResponseWriter, in encoding, code int, text []byte) {
	kind := typeProtobuf
	if in == jsonText {
		kind = typeJSON
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(code)
	_, _ = w.Write(text) // a client that went away needs no answer
}
