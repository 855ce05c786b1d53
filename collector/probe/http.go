package probe

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
)

const (
	// maxBody is how much of a body is read: more than a health check says. A longer one is left there, and the
	// attempt ends by what was read.
	maxBody = 1 << 20
	// maxHead bounds the headers of an answer; Go's own default would be 10 MB.
	maxHead = 64 << 10
	// chunk is how much of a body is in memory at once.
	chunk = 16 << 10
)

// httpAsker asks by a request of HTTP/1.1 on a connection of its own.
type httpAsker struct {
	Options
	trust  *trust
	header http.Header
}

// askHTTP returns how to ask by http or https.
func askHTTP(o Options, agent string) (ask, error) {
	a := &httpAsker{Options: o, header: http.Header{"User-Agent": {agent}}}
	for name, value := range o.Headers {
		a.header.Set(name, value)
	}
	if _, err := a.request(context.Background()); err != nil {
		return nil, err
	}
	var err error
	if a.trust, err = newTrust(o); err != nil {
		return func(context.Context, *timeline) error { return err }, nil
	}
	return a.ask, nil
}

func (a *httpAsker) request(ctx context.Context) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, cmp.Or(a.Method, http.MethodGet), a.Target.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	r.Header = a.header.Clone()
	r.Host = cmp.Or(a.header.Get("Host"), r.Host)
	return r, nil
}

// ask sends the request. It uses the transport alone: a client would follow redirects, and an answer of another server
// would tell nothing of this one.
func (a *httpAsker) ask(ctx context.Context, t *timeline) error {
	trace := &httptrace.ClientTrace{
		TLSHandshakeStart:    func() { t.enter(phaseTLS) },
		GotConn:              func(httptrace.GotConnInfo) { t.enter(phaseFirstByte) },
		GotFirstResponseByte: func() { t.enter(phaseTransfer) },
	}
	r, err := a.request(httptrace.WithClientTrace(ctx, trace))
	if err != nil {
		return &failure{local, err}
	}
	transport := &http.Transport{ // no proxy: it is the target that is measured
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dial(ctx, t, network, address)
		},
		TLSClientConfig: a.trust.config(t), DisableKeepAlives: true, DisableCompression: true,
		MaxResponseHeaderBytes: maxHead,
	}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return a.check(response)
}

// check reads the answer and says whether it is what was expected. A status that is not is the answer's outcome
// whatever its body.
func (a *httpAsker) check(r *http.Response) error {
	found, err := readFor(io.LimitReader(r.Body, maxBody), a.Body)
	switch {
	case !a.expects(r.StatusCode):
		return &failure{badStatus, fmt.Errorf("the status is %d", r.StatusCode)}
	case err != nil:
		return err
	case !found:
		return &failure{badBody, errors.New("the body has not the expected text")}
	}
	return nil
}

// expects says whether a status is a success.
func (a *httpAsker) expects(code int) bool {
	if len(a.Status) == 0 {
		return code >= 200 && code <= 399
	}
	exact := strconv.Itoa(code)
	for _, s := range a.Status {
		if class, ok := strings.CutSuffix(s, "xx"); s == exact || ok && strings.HasPrefix(exact, class) {
			return true
		}
	}
	return false
}

// readFor reads r to its end and says whether the text was in it. It holds a chunk of it at a time.
func readFor(r io.Reader, text string) (found bool, err error) {
	found = text == ""
	buffer := make([]byte, chunk+len(text))
	kept := 0 // bytes at the beginning that the text could have begun in
	for {
		n, err := r.Read(buffer[kept:])
		have := buffer[:kept+n]
		found = found || bytes.Contains(have, []byte(text))
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		if kept = 0; text != "" {
			kept = copy(buffer, have[len(have)-min(len(have), len(text)-1):])
		}
	}
}
