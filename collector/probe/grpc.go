package probe

import (
	"context"
	"fmt"
	"net"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// maxAnswer bounds the answer to a health check, which has two bytes.
const maxAnswer = 4 << 10

// grpcAsker asks by the health check of gRPC (grpc.health.v1), on a connection of its own.
type grpcAsker struct {
	Options
	agent string
	trust *trust // nil without TLS
}

// askGRPC returns how to ask by grpc or grpcs.
func askGRPC(o Options, agent string) ask {
	a := &grpcAsker{Options: o, agent: agent}
	if o.Target.Scheme == "grpcs" {
		var err error
		if a.trust, err = newTrust(o); err != nil {
			return func(context.Context, *timeline) error { return err }
		}
	}
	return a.ask
}

// A connecting is the way to a server. It keeps the error that gRPC makes text of.
type connecting struct {
	credentials.TransportCredentials
	t    *timeline
	errs chan error // capacity 1: the first error
}

func (c *connecting) note(err error) error {
	if err != nil {
		select {
		case c.errs <- err:
		default:
		}
	}
	return err
}

// dial is how gRPC gets to connect.
func (c *connecting) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := dial(ctx, c.t, "tcp", address)
	return conn, c.note(err)
}

// ClientHandshake is the credentials' own, between two phases.
func (c *connecting) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if c.Info().SecurityProtocol == "tls" {
		c.t.enter(phaseTLS)
	}
	secured, info, err := c.TransportCredentials.ClientHandshake(ctx, authority, conn)
	if err == nil {
		c.t.enter(phaseFirstByte)
	}
	return secured, info, c.note(err)
}

// Clone implements credentials.TransportCredentials. gRPC asks for one where it changes the authority, which it may not.
func (c *connecting) Clone() credentials.TransportCredentials { return c }

// ask asks whether the service is serving.
func (a *grpcAsker) ask(ctx context.Context, t *timeline) error {
	c := &connecting{TransportCredentials: insecure.NewCredentials(), t: t, errs: make(chan error, 1)}
	if a.trust != nil {
		c.TransportCredentials = credentials.NewTLS(a.trust.config(t))
	}
	client, err := grpc.NewClient("passthrough:///"+a.address(""),
		grpc.WithContextDialer(c.dial), grpc.WithTransportCredentials(c), grpc.WithUserAgent(a.agent),
		grpc.WithNoProxy(), grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(), grpc.WithDisableHealthCheck(),
		grpc.WithMaxHeaderListSize(maxHead), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return &failure{local, err}
	}
	defer hangUp(client)
	var head, tail metadata.MD
	request := &grpc_health_v1.HealthCheckRequest{Service: strings.Trim(a.Target.Path, "/")}
	answer, err := grpc_health_v1.NewHealthClient(client).Check(ctx, request, grpc.Header(&head), grpc.Trailer(&tail))
	switch {
	case err != nil:
		return c.explain(ctx, err, len(head)+len(tail) > 0)
	case answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING:
		return &failure{badStatus, fmt.Errorf("the service is %s", answer.GetStatus())}
	}
	return nil
}

// explain returns the error behind a call that failed: that of the connection if there was one. Without, a status
// that the server sent is its answer, and one that gRPC made is about what it got instead.
func (c *connecting) explain(ctx context.Context, err error, answered bool) error {
	select {
	case cause := <-c.errs:
		return cause
	default:
	}
	switch code := status.Code(err); {
	case ctx.Err() != nil || code == codes.DeadlineExceeded: // the server has our time limit, and may be the first to say so
		return &failure{timeout, err}
	case answered:
		return &failure{badStatus, err}
	case code == codes.Unavailable:
		return &failure{closed, err}
	}
	return &failure{protocol, err}
}
