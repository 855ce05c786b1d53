package otlp

import (
	"context"
	"math"
	"testing"
	"time"

	colmetricpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// The table of the OTLP specification, "OTLP/gRPC Response".
var retryable = map[codes.Code]bool{
	codes.Canceled: true, codes.DeadlineExceeded: true, codes.Aborted: true, codes.OutOfRange: true,
	codes.Unavailable: true, codes.DataLoss: true,
}

func TestEveryStatusCode(t *testing.T) {
	names := [...]string{
		"CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
		"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}
	for i, name := range names {
		code := codes.Code(i + 1)
		t.Run(name, func(t *testing.T) {
			b := serve(t, "127.0.0.1:0", nil)
			b.reply(func(ctx context.Context, n int) (*colmetricpb.ExportMetricsServiceResponse, error) {
				if n <= 2 {
					return nil, status.Error(code, "as the test says")
				}
				return accept(ctx, n)
			})
			s := newSource(t, Options{Endpoint: "http://" + b.addr}, fast, 1, 2)
			s.export(t, 3)
			delivered, failed := s.points, 2*s.points
			if retryable[code] {
				delivered, failed = 3*s.points, 0
			}
			await(t, "delivery", func() bool { return s.delivered(t) == delivered })
			if got := s.failed(t, name); got != failed {
				t.Errorf("%d points counted as %s, want %d", got, name, failed)
			}
			await(t, "one line for each change", func() bool { return s.log.count("\n") == 2 })
		})
	}
}

// throttled is a status with RetryInfo.
func throttled(t testing.TB, code codes.Code, d *durationpb.Duration) error {
	t.Helper()
	s, err := status.New(code, "slow down").WithDetails(&errdetails.RetryInfo{RetryDelay: d})
	if err != nil {
		t.Fatal(err)
	}
	return s.Err()
}

// The backend's pause is obeyed even where it is longer than the timeout of an attempt.
func TestThrottlingIsObeyed(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100")
	const pause = 250 * time.Millisecond
	for _, code := range []codes.Code{codes.Unavailable, codes.ResourceExhausted} {
		t.Run(code.String(), func(t *testing.T) {
			b := serve(t, "127.0.0.1:0", nil)
			b.reply(func(ctx context.Context, n int) (*colmetricpb.ExportMetricsServiceResponse, error) {
				if n == 1 {
					return nil, throttled(t, code, durationpb.New(pause))
				}
				return accept(ctx, n)
			})
			s := newSource(t, Options{Endpoint: "http://" + b.addr}, fast, 1, 2)
			s.export(t, 1)
			first, second := b.next(t), b.next(t)
			if waited := second.at.Sub(first.at); waited < pause {
				t.Errorf("second attempt after %s, before the %s that the backend asked for", waited, pause)
			}
			await(t, "delivery", func() bool { return s.delivered(t) == s.points })
		})
	}
}

func TestRetryInfoWithinReason(t *testing.T) {
	broken := status.FromProto(&statuspb.Status{Code: int32(codes.ResourceExhausted), Details: []*anypb.Any{
		{TypeUrl: "type.googleapis.com/google.rpc.RetryInfo", Value: []byte{0xff}},
	}})
	for name, tt := range map[string]struct {
		err   error
		want  time.Duration
		retry bool
	}{
		"none":      {status.Error(codes.ResourceExhausted, ""), 0, false},
		"malformed": {broken.Err(), 0, false},
		"absent":    {throttled(t, codes.ResourceExhausted, nil), 0, true},
		"zero":      {throttled(t, codes.ResourceExhausted, durationpb.New(0)), 0, true},
		"negative":  {throttled(t, codes.ResourceExhausted, durationpb.New(-time.Hour)), 0, true},
		"huge":      {throttled(t, codes.ResourceExhausted, &durationpb.Duration{Seconds: math.MaxInt64}), maxThrottle, true},
		"fair":      {throttled(t, codes.ResourceExhausted, durationpb.New(time.Minute)), time.Minute, true},
	} {
		o := classify(nil, tt.err)
		if o.throttle != tt.want || o.retry != tt.retry {
			t.Errorf("%s: pause %s, retry %t; want %s, %t", name, o.throttle, o.retry, tt.want, tt.retry)
		}
		p := pause{min: time.Second, max: time.Minute}
		if wait := p.next(o.throttle); wait < time.Second/2 || wait < tt.want {
			t.Errorf("%s: a pause of %s only", name, wait)
		}
	}
}

func TestPauseGrowsAndSpreads(t *testing.T) {
	p := pause{min: time.Second, max: 30 * time.Second}
	for _, base := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		base *= time.Second
		if got := p.next(0); got < base/2 || got > base {
			t.Errorf("pause %s outside [%s, %s]", got, base/2, base)
		}
	}
	// Repeated throttling grows from the backend's number.
	p.reset()
	for _, low := range []time.Duration{20, 20, 20} {
		if got := p.next(20 * time.Second); got < low*time.Second {
			t.Errorf("pause %s below the backend's 20s", got)
		}
	}
	if p.base != 30*time.Second {
		t.Errorf("base %s after throttling, want the maximum", p.base)
	}
	p.reset()
	seen := map[time.Duration]bool{}
	for range 100 {
		p.reset()
		seen[p.next(0)] = true
	}
	if len(seen) < 90 {
		t.Errorf("%d different pauses in 100: no jitter", len(seen))
	}
}

func TestPartialSuccess(t *testing.T) {
	partial := func(rejected int64, message string) *colmetricpb.ExportMetricsServiceResponse {
		return &colmetricpb.ExportMetricsServiceResponse{PartialSuccess: &colmetricpb.ExportMetricsPartialSuccess{
			RejectedDataPoints: rejected, ErrorMessage: message,
		}}
	}
	for name, tt := range map[string]struct {
		answer   *colmetricpb.ExportMetricsServiceResponse
		rejected int64
		logged   string
	}{
		"some":     {partial(3, "too old"), 3, `rejected_points=3 message="too old"`},
		"warning":  {partial(0, "deprecated"), 0, "rejected_points=0 message=deprecated"},
		"nothing":  {partial(0, ""), 0, ""},
		"too many": {partial(1e6, ""), 10, "rejected_points=1000000"},
		"negative": {partial(-5, "odd"), 0, "message=odd"},
	} {
		t.Run(name, func(t *testing.T) {
			b := serve(t, "127.0.0.1:0", nil)
			b.reply(func(context.Context, int) (*colmetricpb.ExportMetricsServiceResponse, error) { return tt.answer, nil })
			s := newSource(t, Options{Endpoint: "http://" + b.addr}, fast, 1, 10)
			s.export(t, 2)
			want := 2 * (s.points - tt.rejected)
			await(t, "the end of both", func() bool { return s.delivered(t)+s.failed(t, errRejected) == 2*s.points })
			if got := s.delivered(t); got != want {
				t.Errorf("%d points delivered, want %d", got, want)
			}
			if err := s.exporter.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			if len(b.calls) != 2 {
				t.Errorf("%d requests: a partial success is not to be repeated", len(b.calls))
			}
			lines := 1
			if tt.logged == "" {
				lines = 0
			}
			if s.log.count("\n") != lines || s.log.count(tt.logged) < lines {
				t.Errorf("log lacks one line with %q", tt.logged)
			}
		})
	}
}

// A backend that takes the request and does not answer: the attempt ends by the timeout and is repeated.
func TestHangingBackend(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "30")
	b := serve(t, "127.0.0.1:0", nil)
	b.reply(func(ctx context.Context, n int) (*colmetricpb.ExportMetricsServiceResponse, error) {
		if n <= 3 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return accept(ctx, n)
	})
	s := newSource(t, Options{Endpoint: "http://" + b.addr}, fast, 1, 2)
	s.export(t, 2)
	b.next(t)
	b.reply(accept)
	await(t, "delivery", func() bool { return s.delivered(t) == 2*s.points })
}

// gRPC still reads a body after its call was cancelled; under the race detector this shows that nobody writes it.
func TestCancelledCallsDoNotRaceWithExport(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
	b := serve(t, "127.0.0.1:0", nil)
	b.reply(func(ctx context.Context, _ int) (*colmetricpb.ExportMetricsServiceResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	s := newSource(t, Options{Endpoint: "http://" + b.addr}, fast, 10, 100)
	s.export(t, 50)
	if got := s.failed(t, errQueueFull) + s.value(t, descInflight.Name, ""); got != 50*s.points {
		t.Errorf("%d points accounted for, want %d", got, 50*s.points)
	}
}
