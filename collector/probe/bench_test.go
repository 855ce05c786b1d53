package probe

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkAttempt is one attempt at a server in the same process; cpu-us/op has both ends.
func BenchmarkAttempt(b *testing.B) {
	ca := newAuthority(b)
	handler := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	server := httptest.NewServer(handler)
	defer server.Close()
	secure := httptest.NewUnstartedServer(handler)
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue(b, "shop.internal", time.Hour)}}
	secure.StartTLS()
	defer secure.Close()
	for _, target := range []string{"tcp" + server.URL[4:], server.URL, "tls" + secure.URL[5:], secure.URL} {
		o := targeting(b, target)
		if o.Target.Scheme != "http" && o.Target.Scheme != "tcp" {
			o.CA, o.ServerName = ca.file, "shop.internal"
		}
		b.Run(o.Target.Scheme, func(b *testing.B) {
			p := single(b, o)
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				p.attempt(b.Context(), time.Now())
			}
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
			if p.last != success {
				b.Errorf("outcome %s", p.last)
			}
		})
	}
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCollect is one tick with the most probes there can be, each of which has met every outcome.
func BenchmarkCollect(b *testing.B) {
	o := targeting(b, "https://name.invalid/")
	o.Interval = time.Hour
	list := make([]Options, 200)
	for i := range list {
		list[i] = o
	}
	l := newLab(b, list...)
	for _, p := range l.probes {
		for i := range outcomes {
			p.note(newTimeline(time.Now(), phaseTransfer), i, nil)
		}
	}
	l.take(b)
	b.ReportAllocs()
	for b.Loop() {
		_ = l.Collect(b.Context(), time.Now())
	}
}

// BenchmarkUnderWay tells the memory of attempts that wait for a server, heap and stacks, the server's goroutines included.
func BenchmarkUnderWay(b *testing.B) {
	silent := listenSilently(b)
	for _, scheme := range []string{"http", "https", "grpc"} {
		b.Run(scheme, func(b *testing.B) {
			o := targeting(b, scheme+"://"+silent)
			o.Timeout = 500 * time.Millisecond
			for b.Loop() {
				before := memory()
				var tasks sync.WaitGroup
				p := single(b, o)
				for range maxAttempts {
					tasks.Go(func() { p.attempt(b.Context(), time.Now()) })
				}
				time.Sleep(200 * time.Millisecond)
				b.ReportMetric(float64(memory()-before)/maxAttempts/1024, "KiB/attempt")
				tasks.Wait()
			}
		})
	}
}

func memory() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
