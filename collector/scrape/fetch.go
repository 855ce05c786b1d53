package scrape

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"syscall"
)

const (
	// maxBody is how much of an answer is read: that of a service with some ten thousand series.
	maxBody = 16 << 20
	// maxHead bounds the headers of an answer; Go's own default would be 10 MB.
	maxHead = 64 << 10

	textType  = "text/plain"
	protoType = "application/vnd.google.protobuf"
	// Only protobuf has native histograms.
	acceptText  = textType + ";version=0.0.4;q=0.5,*/*;q=0.1"
	acceptProto = protoType + ";proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.9," + acceptText
)

// fetch asks the target once. The error is a *failure.
func (t *target) fetch(ctx context.Context) (*answer, error) {
	transport := &http.Transport{ // no proxy: it is this server that is asked
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHead, TLSClientConfig: &tls.Config{},
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url.String(), http.NoBody)
	if err != nil {
		return nil, &failure{connect, err}
	}
	request.Header = http.Header{"User-Agent": {t.agent}, "Accept": {t.accept()}}
	response, err := transport.RoundTrip(request) // a client would follow redirects: another server's counters are others
	if err != nil {
		return nil, t.classify(ctx, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		if to := response.Header.Get("Location"); to != "" {
			return nil, failed(status, "the status is %d, to %.100q: write that address if it is meant", response.StatusCode, to)
		}
		return nil, failed(status, "the status is %d", response.StatusCode)
	}
	body := &bounded{from: response.Body, left: maxBody}
	a, err := t.read(body, response.Header)
	switch {
	case body.left < 0:
		return nil, failed(tooLarge, "the answer does not end within %d MiB", maxBody>>20)
	case err != nil:
		return nil, t.classify(ctx, err)
	}
	return a, nil
}

// accept is what the target is asked for: histograms may be native.
func (t *target) accept() string {
	for _, i := range t.indicators {
		if i.tally.wantsBucket() {
			return acceptProto
		}
	}
	return acceptText
}

// read reads a body of one of the formats that were asked for.
func (t *target) read(body io.Reader, header http.Header) (*answer, error) {
	if e := header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, failed(protocol, "the answer is compressed by %.40q, which was not asked for", e)
	}
	a := &answer{wanted: t.wanted()}
	content := header.Get("Content-Type")
	kind, _, err := mime.ParseMediaType(content)
	switch {
	case kind == textType || content == "": // as Prometheus did for long
		err = a.readText(body)
		return a, err
	case kind == protoType:
		err = a.readProto(body)
		return a, err
	case err != nil:
		return nil, failed(protocol, "the content type %.60q is none", content)
	}
	return nil, failed(protocol, "the answer is %.60q, want the text format of Prometheus (%s)", kind, textType)
}

// wanted returns the metrics that the indicators are about.
func (t *target) wanted() wanted {
	w := wanted{startMetric: nil}
	for _, i := range t.indicators {
		for _, s := range [...]*selection{i.tally.part, i.tally.total} {
			bounds := w[s.Metric]
			if s.named {
				bounds = append(bounds, s.bound)
			}
			w[s.Metric] = bounds
		}
	}
	return w
}

// ownFaults are errors of sockets that come from slid's host and not from the server.
var ownFaults = []error{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EACCES, syscall.EPERM,
}

// classify gives an error its reason.
func (t *target) classify(ctx context.Context, err error) error {
	if _, ok := errors.AsType[*failure](err); ok && ctx.Err() == nil {
		return err
	}
	if slices.ContainsFunc(ownFaults, func(own error) bool { return errors.Is(err, own) }) {
		return failed(missed, "slid's own host does not allow it: %w", err)
	}
	if e, ok := errors.AsType[net.Error](err); ctx.Err() != nil || ok && e.Timeout() {
		return failed(timeout, "no answer within %v", t.schedule.Timeout)
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return &failure{connect, err}
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return &failure{connect, err}
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return &failure{connect, e}
	}
	return failed(protocol, "no whole answer: %w", err)
}

// bounded reads as much as is left, and then fails.
type bounded struct {
	from io.Reader
	left int64 // negative: there was more
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLarge
	}
	n, err := b.from.Read(p[:min(int64(len(p)), b.left+1)])
	if b.left -= int64(n); b.left < 0 {
		return n, errTooLarge
	}
	return n, err //nolint:wrapcheck // io.EOF must stay itself
}

var errTooLarge = fmt.Errorf("more than %d bytes", maxBody)
