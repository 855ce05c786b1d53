package local

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves an answer until the test ends, and counts how often it was asked for.
func start(t *testing.T, document string) (path string, asked *atomic.Int32) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	asked = new(atomic.Int32)
	go func() {
		done <- Serve(ctx, l, func() ([]byte, error) {
			asked.Add(1)
			if document == "" {
				return nil, errors.New(`starts, "soon"`)
			}
			return []byte(document), nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		began := time.Now()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > patience/2 {
			t.Errorf("clients held the end up for %v", took)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("the socket is left: %v", err)
		}
	})
	return path, asked
}

func TestAsk(t *testing.T) {
	document := strings.Repeat("x", 1<<20) + "\n"
	path, asked := start(t, document)
	for range 10 {
		got, err := Ask(t.Context(), path)
		if err != nil || string(got) != document {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	if n := asked.Load(); n != 10 {
		t.Errorf("asked %d times", n)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestAnswersThatFail(t *testing.T) {
	path, _ := start(t, "")
	got, err := Ask(t.Context(), path)
	if err != nil || string(got) != `{"error":"starts, \"soon\""}`+"\n" {
		t.Errorf("%s, %v", got, err)
	}
}

func TestNoAgent(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, path := range []string{filepath.Join(dir, "none"), filepath.Join(dir, "none", "none"), stale} {
		if _, err := Ask(t.Context(), path); !errors.Is(err, ErrNoAgent) {
			t.Errorf("%s: %v", path, err)
		}
	}
	again, err := Listen(stale)
	if err != nil {
		t.Fatal("a stale socket is in the way:", err)
	}
	again.Close()
}

func TestTwoAgents(t *testing.T) {
	path, _ := start(t, "first\n")
	if l, err := Listen(path); err == nil {
		l.Close()
		t.Error("the second took the socket of the first")
	}
	if got, err := Ask(t.Context(), path); err != nil || string(got) != "first\n" {
		t.Errorf("%s, %v", got, err)
	}
}

// TestOthersFiles: what is no socket stays.
func TestOthersFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := Listen(path); err == nil {
		l.Close()
		t.Error("it listens")
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "precious" {
		t.Errorf("%s, %v", data, err)
	}
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestHostileClients: those that say nothing, too much, the wrong thing, or do not read hold up nobody for longer than
// their time, and the end not at all.
func TestHostileClients(t *testing.T) {
	path, asked := start(t, strings.Repeat("x", 8<<20)) // more than a socket buffers
	dial(t, path)                                       // says nothing
	slow := dial(t, path)
	_, _ = slow.Write([]byte(request)) // reads nothing
	half := dial(t, path)
	_, _ = half.Write([]byte("rep")) // never ends its line
	flood := dial(t, path)
	go func() {
		for { // until it is cut off
			if _, err := flood.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	}()
	began := time.Now()
	got, err := Ask(t.Context(), path)
	if err != nil || len(got) != 8<<20 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if took := time.Since(began); took > patience+patience/2 {
		t.Errorf("an honest client waited %v", took)
	}
	wrong := dial(t, path)
	_, _ = wrong.Write([]byte("secret\n"))
	if text, _ := io.ReadAll(wrong); string(text) != "{\"error\":\"ask for: report\"}\n" {
		t.Errorf("%q", text)
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("the answer was made %d times, for two that asked for it", n)
	}
	// At the end four more hang: the cleanup measures how long they hold it up.
	for range atOnce {
		dial(t, path)
	}
}

// TestStorm: a client that asks without end is served at a bounded rate.
func TestStorm(t *testing.T) {
	path, asked := start(t, "x")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	done := make(chan struct{})
	for range 16 {
		go func() {
			defer func() { done <- struct{}{} }()
			for ctx.Err() == nil {
				_, _ = Ask(ctx, path)
			}
		}()
	}
	for range 16 {
		<-done
	}
	if n, most := asked.Load(), int32(atOnce*time.Second/pause)+atOnce; n == 0 || n > most {
		t.Errorf("%d answers in a second, at most %d expected", n, most)
	}
}

// TestLyingAgents: what a client gets of a server that hangs, says nothing or breaks off.
func TestLyingAgents(t *testing.T) {
	for name, behave := range map[string]func(net.Conn){
		"says nothing": func(c net.Conn) { _, _ = io.CopyN(io.Discard, c, int64(len(request))) },
		"resets":       func(net.Conn) {},
	} {
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if c, err := l.Accept(); err == nil {
				behave(c)
				c.Close()
			}
		}()
		got, err := Ask(t.Context(), path)
		if err == nil || errors.Is(err, ErrNoAgent) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		<-done
		l.Close()
	}
}

func TestAskIsCancelled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path) // accepts nobody
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := Ask(ctx, path); err == nil || time.Since(began) > time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}
