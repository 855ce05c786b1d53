// Package local lets programs on this host ask the running agent: over a unix socket, one line in, one document out.
//
// Whoever may open the socket can ask, and do nothing else: a request is a fixed word, few are served at a time, each
// within two seconds. What a client does or fails to do costs the agent a goroutine for that long.
package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// request is what a client sends.
	request = "report\n"
	// mode of the socket: connecting takes the right to write.
	mode = 0o660
	// atOnce is how many clients are served at a time; others wait for their turn in the kernel.
	atOnce = 4
	// patience is how long a client may take, from connecting to having read it all.
	patience = 2 * time.Second
	// pause is how long a place stays empty between two clients, so that asking without end costs little.
	pause = 10 * time.Millisecond
	// maxAnswer bounds what a client takes, in bytes.
	maxAnswer = 64 << 20
)

// Listen makes the socket. A stale one, of an agent that crashed, is replaced; that of a living one is not.
func Listen(path string) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, patience); err == nil {
		return nil, errors.Join(fmt.Errorf("%s: another agent answers there", path), conn.Close())
	} else if info, statErr := os.Lstat(path); statErr == nil && info.Mode()&fs.ModeSocket != 0 && errors.Is(err, unix.ECONNREFUSED) {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Serve answers clients until ctx ends; then it removes the socket and waits for those it serves. answer returns the
// document; it may be called concurrently.
func Serve(ctx context.Context, l net.Listener, answer func() ([]byte, error)) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer func() {
		stop()
		_ = l.Close() // again, where ctx ended: it waits until the socket is removed
	}()
	var clients sync.WaitGroup
	defer clients.Wait()
	places := make(chan struct{}, atOnce)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // no descriptors left, mostly: later there are
			<-places
			rest(ctx, time.Second)
			continue
		}
		clients.Go(func() {
			serve(ctx, conn, answer)
			rest(ctx, pause)
			<-places
		})
	}
}

// rest waits for a time or until ctx ends.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// serve answers one client. What goes wrong is the client's affair.
func serve(ctx context.Context, conn net.Conn, answer func() ([]byte, error)) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	if conn.SetDeadline(time.Now().Add(patience)) != nil {
		return
	}
	var line [len(request)]byte
	if _, err := io.ReadFull(conn, line[:]); err != nil {
		return
	}
	if string(line[:]) != request {
		_, _ = fmt.Fprintf(conn, "{\"error\":\"ask for: report\"}\n")
		return
	}
	document, err := answer()
	if err != nil {
		_, _ = fmt.Fprintf(conn, "{\"error\":%q}\n", err.Error())
		return
	}
	_, _ = conn.Write(document)
}

// ErrNoAgent says that nobody answers on this host: the socket does not exist, or nobody listens there any more.
var ErrNoAgent = errors.New("no agent runs here")

// Ask returns the document of the agent that listens at the path. The error is ErrNoAgent if there is none.
func Ask(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOTDIR):
		return nil, ErrNoAgent
	case err != nil:
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := io.WriteString(conn, request); err != nil {
		return nil, fmt.Errorf("ask the agent at %s: %w", path, err)
	}
	document, err := io.ReadAll(io.LimitReader(conn, maxAnswer))
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("ask the agent at %s: no answer within %v", path, 2*patience)
	case err != nil:
		return nil, fmt.Errorf("ask the agent at %s: %w", path, err)
	case len(bytes.TrimSpace(document)) == 0:
		return nil, fmt.Errorf("ask the agent at %s: it said nothing", path)
	}
	return document, nil
}
