package otlp

import (
	"math/rand/v2"
	"strings"
	"time"
	"unicode"

	colmetricpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxThrottle is the longest pause a backend can ask for, lest a wrong number silence the agent for days.
const maxThrottle = 10 * time.Minute

// An outcome is what became of one attempt to send a request.
type outcome struct {
	err      error         // nil: the backend has the request
	code     codes.Code    // of err
	retry    bool          // the same request may succeed later
	throttle time.Duration // the pause that the backend asks for; 0: none
	rejected int64         // points that the backend refused in a request that it took
	message  string        // its reason, or a warning
}

// classify applies the OTLP specification ("OTLP/gRPC Response", "OTLP/gRPC Throttling") to the end of a call.
func classify(reply *colmetricpb.ExportMetricsServiceResponse, err error) outcome {
	if err == nil {
		partial := reply.GetPartialSuccess()
		return outcome{rejected: max(partial.GetRejectedDataPoints(), 0), message: partial.GetErrorMessage()}
	}
	s := status.Convert(err)
	throttle, told := retryInfo(s)
	o := outcome{err: err, code: s.Code(), throttle: throttle}
	switch s.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss:
		o.retry = true
	case codes.ResourceExhausted:
		o.retry = told // without RetryInfo the backend does not expect to recover
	}
	return o
}

// retryInfo returns the pause that the backend asks for, within reason, and whether it told one at all.
func retryInfo(s *status.Status) (pause time.Duration, told bool) {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return min(max(info.GetRetryDelay().AsDuration(), 0), maxThrottle), true
		}
	}
	return 0, false
}

// codeName spells a status code as gRPC's documentation and semantic conventions do: DEADLINE_EXCEEDED.
func codeName(c codes.Code) string {
	if c == codes.Canceled {
		return "CANCELLED"
	}
	var b strings.Builder
	previous := '_'
	for _, r := range c.String() {
		if unicode.IsUpper(r) && unicode.IsLower(previous) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToUpper(r))
		previous = r
	}
	return b.String()
}

// A pause is the growing time between attempts.
type pause struct {
	min, max time.Duration
	base     time.Duration // doubles with each failure; 0 after a success
}

// next returns how long to wait after another failure: at least what the backend asks for, and at least half of the
// base, both plus a random part, so that a fleet does not return in step.
func (p *pause) next(throttle time.Duration) time.Duration {
	p.base = max(p.base, p.min)
	wait := max(throttle, p.base/2) + rand.N(p.base/2+1)
	p.base = min(2*max(p.base, throttle), max(p.max, throttle))
	return wait
}

func (p *pause) reset() { p.base = 0 }
