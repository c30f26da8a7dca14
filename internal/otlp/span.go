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
		b, size := message[at:], 0
		switch second := int(b[1]); b[0] { // fields as they usually are
		case SpanTraceID<<3 | wireBytes:
			if second == 16 {
				s.TraceID, size = [16]byte(b[2:]), 18
			}
		case SpanSpanID<<3 | wireBytes:
			if second == 8 {
				s.SpanID, size = [8]byte(b[2:]), 10
			}
		case SpanParentID<<3 | wireBytes:
			if second == 8 {
				s.ParentID, size = [8]byte(b[2:]), 10
			}
		case SpanName<<3 | wireBytes:
			if second < 0x80 {
				size = 2 + second
				s.Name = Text(b[2:size])
			}
		case SpanKind<<3 | wireVarint:
			if second < 0x80 {
				s.Kind, size = int32(second), 2
			}
		case SpanStart<<3 | wireFixed64:
			s.Start, size = fixed(b[1:]), 9
		case SpanEnd<<3 | wireFixed64:
			s.End, size = fixed(b[1:]), 9
		case SpanAttributes<<3 | wireBytes:
			for size+1 < len(b) && b[size] == SpanAttributes<<3|wireBytes && b[size+1] < 0x80 {
				size += 2 + int(b[size+1])
			}
			if size > 0 {
				s.attributes(at, at+size)
			}
		case SpanStatus<<3 | wireBytes:
			if second == 0 {
				size = 2
			}
		}
		if size == 0 {
			size = s.field(b, at)
		}
		at += size
	}
}

// field reads the field at the beginning of b, whatever it looks like, and says how long it is. at is where it is in the span.
func (s *Span) field(b []byte, at int) (size int) {
	tag, n := uvarint(b)
	body, size := take(b[n:], tag&7)
	size += n
	switch tag >> 3 {
	case SpanTraceID:
		s.TraceID = [16]byte{}
		copy(s.TraceID[:], body)
	case SpanSpanID:
		s.SpanID = [8]byte{}
		copy(s.SpanID[:], body)
	case SpanState:
		s.TraceState = Text(body)
	case SpanParentID:
		s.ParentID = [8]byte{}
		copy(s.ParentID[:], body)
	case SpanName:
		s.Name = Text(body)
	case SpanKind:
		s.Kind = int32(number(body))
	case SpanStart:
		s.Start = fixed(body)
	case SpanEnd:
		s.End = fixed(body)
	case SpanAttributes:
		s.attributes(at, at+size)
	case SpanStatus:
		s.status(body)
	}
	return size
}

func (s *Span) attributes(first, last int) {
	if s.last == 0 {
		s.first = first
	}
	s.last = last
}

func (s *Span) status(message []byte) {
	for f := FieldsOf(message); f.Next(); {
		if f.Number == 3 {
			s.Status = int32(number(f.Body))
		}
	}
}
