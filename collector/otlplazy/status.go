package otlplazy

import (
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/consumer/consumererror"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// malformed is the error of a request that will never be taken, whoever sends it again.
func malformed(err error) error {
	return status.Error(codes.InvalidArgument, "not an OTLP export request: "+err.Error())
}

// statusOf tells a sender whether to send the request again: it should, unless the error is permanent or has a status of its
// own that says otherwise.
func statusOf(err error) *status.Status {
	s, has := status.FromError(err)
	switch {
	case has:
		return s
	case consumererror.IsPermanent(err):
		return status.New(codes.Internal, err.Error())
	default:
		return status.New(codes.Unavailable, err.Error())
	}
}

// httpCode is the code by which HTTP says the same, where OTLP has one.
func httpCode(c codes.Code) int {
	switch c {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss:
		return http.StatusServiceUnavailable // which are those after which a sender tries again
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.Unimplemented:
		return http.StatusNotFound
	default:
		return http.StatusInternalServerError
	}
}

// grpcCode is the code by which gRPC says what the HTTP server refuses by itself.
func grpcCode(code int) codes.Code {
	switch code {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		return codes.InvalidArgument
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusForbidden:
		return codes.PermissionDenied
	case http.StatusNotFound:
		return codes.Unimplemented
	case http.StatusTooManyRequests:
		return codes.ResourceExhausted
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return codes.Unavailable
	default:
		return codes.Unknown
	}
}

// retryAfter is in how many seconds a sender is asked to try again, if anybody asks it to.
func retryAfter(s *status.Status) (seconds string, asked bool) {
	for _, detail := range s.Details() {
		if retry, is := detail.(*errdetails.RetryInfo); is {
			return strconv.FormatInt(int64(retry.GetRetryDelay().AsDuration()/time.Second), 10), true
		}
	}
	return "", false
}
