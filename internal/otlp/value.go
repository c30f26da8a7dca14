package otlp

import (
	"math"
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// Value is that of an attribute. Its methods give what those of [pcommon.Value] do.
type Value []byte

// Fields of an AnyValue.
const (
	valueText = 1 + iota
	valueBool
	valueInt
	valueDouble
	valueList_
	valueMap
	valueBytes
	valueIndex
)

var types = [...]pcommon.ValueType{
	valueText: pcommon.ValueTypeStr, valueBool: pcommon.ValueTypeBool, valueInt: pcommon.ValueTypeInt, valueDouble: pcommon.ValueTypeDouble,
	valueList_: pcommon.ValueTypeSlice, valueMap: pcommon.ValueTypeMap, valueBytes: pcommon.ValueTypeBytes, valueIndex: pcommon.ValueTypeEmpty,
}

// last gives the field that says what the value is.
func (v Value) last() (number int, body []byte) {
	for f := FieldsOf(v); f.Next(); {
		if f.Number < len(types) {
			number, body = f.Number, f.Body
		}
	}
	return number, body
}

// Type is the value's.
func (v Value) Type() pcommon.ValueType {
	number, _ := v.last()
	return types[number]
}

// Str is the text, if it is one.
func (v Value) Str() string {
	if number, body := v.last(); number == valueText {
		return Text(body)
	}
	return ""
}

// Bool says whether it is true, if it is of that type.
func (v Value) Bool() bool {
	n, body := v.last()
	return n == valueBool && number(body) != 0
}

// Double is the number, if it is of that type.
func (v Value) Double() float64 {
	if number, body := v.last(); number == valueDouble {
		return math.Float64frombits(fixed(body))
	}
	return 0
}

// AsString is the text, and what stands for anything else.
func (v Value) AsString() string {
	switch n, body := v.last(); n {
	case 0:
		return ""
	case valueText:
		return Text(body)
	case valueBool:
		return strconv.FormatBool(number(body) != 0)
	case valueInt:
		return strconv.FormatInt(int64(number(body)), 10)
	}
	return v.Decode().AsString()
}

// Decode gives the value as pdata has it, which is the caller's.
func (v Value) Decode() pcommon.Value {
	const resource, attributes = ResourceSpansResource, ResourceAttributes
	var b []byte
	b, request := Begin(b, RequestResourceSpans)
	b, r := Begin(b, resource)
	b, kv := Begin(b, attributes)
	b, at := Begin(b, valueField)
	b = append(b, v...)
	for _, at := range []int{at, kv, r, request} {
		End(b, at)
	}
	out := pcommon.NewValueEmpty()
	if td, err := new(ptrace.ProtoUnmarshaler).UnmarshalTraces(b); err == nil {
		if found, ok := td.ResourceSpans().At(0).Resource().Attributes().Get(""); ok {
			found.MoveTo(out)
		}
	}
	return out
}

func number(b []byte) uint64 {
	n, _ := uvarint(b)
	return n
}
