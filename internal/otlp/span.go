package otlp

// Span is what is most asked for of one. Texts are parts of its message.
type Span struct {
	TraceID          [16]byte
	SpanID, ParentID [8]byte // the parent's is 0 for a root
	TraceState, Name string
	Start, End       uint64 // nanoseconds since 1970
	Kind, Status     int32

	message     []byte
	first, last int // where the first attribute begins, and the last ends
}

// Root says whether it has no parent.
func (s *Span) Root() bool { return s.ParentID == [8]byte{} }

// Message is what the span was read from.
func (s *Span) Message() []byte { return s.message }

// Attributes goes through those of the span.
func (s *Span) Attributes() Attributes {
	return AttributesOf(s.message[s.first:s.last], SpanAttributes)
}

// Read reads a span's message.
func (s *Span) Read(message []byte) {
	*s = Span{message: message}
	for at := 0; at < len(message); {
		from, b := at, message[at:]
		tag := uint64(b[0])
		var body []byte
		switch {
		case tag < 0x80 && tag&7 == wireBytes && b[1] < 0x80: // the usual case
			body = b[2 : 2+int(b[1])]
			at += 2 + int(b[1])
		case tag < 0x80 && tag&7 == wireFixed64:
			body = b[1:9]
			at += 9
		default:
			var n, size int
			tag, n = uvarint(b)
			body, size = take(b[n:], tag&7)
			at += n + size
		}
		switch tag >> 3 {
		case SpanTraceID:
			s.TraceID = [16]byte{}
			copy(s.TraceID[:], body)
		case 2:
			s.SpanID = [8]byte{}
			copy(s.SpanID[:], body)
		case SpanState:
			s.TraceState = Text(body)
		case 4:
			s.ParentID = [8]byte{}
			copy(s.ParentID[:], body)
		case SpanName:
			s.Name = Text(body)
		case 6:
			s.Kind = int32(number(body))
		case 7:
			s.Start = fixed(body)
		case 8:
			s.End = fixed(body)
		case SpanAttributes:
			if s.last == 0 {
				s.first = from
			}
			s.last = at
		case SpanStatus:
			s.status(body)
		}
	}
}

func (s *Span) status(message []byte) {
	for f := FieldsOf(message); f.Next(); {
		if f.Number == 3 {
			s.Status = int32(number(f.Body))
		}
	}
}
