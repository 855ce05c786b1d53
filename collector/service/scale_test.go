package service

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/internal/loadtest"
	"github.com/slid-agent/slid/internal/slo"
)

// The size of a large host.
const (
	crowdServices    = 200
	crowdRoutes      = 20
	crowdConnections = 20_000
)

// crowdProcesses share the work: a process may have 20,000 open files at least on all machines of ours, and a connection has
// two ends.
const crowdProcesses = 4

// A crowd is a host's worth of services with open connections to them.
type crowd struct {
	ports     []int
	tb        testing.TB
	processes []*loadtest.Load // see TestCrowd
}

func newCrowd(tb testing.TB) *crowd {
	tb.Helper()
	c := &crowd{tb: tb}
	for range crowdProcesses {
		p := loadtest.Start(tb, "TestCrowd", crowdVariable+"=on", -1)
		c.processes = append(c.processes, p)
		answer, err := p.Answer()
		if err != nil {
			tb.Fatal("a process with services has ended: ", err)
		}
		for field := range strings.FieldsSeq(answer) {
			port, err := strconv.Atoi(field)
			if err != nil {
				tb.Fatal(err)
			}
			c.ports = append(c.ports, port)
		}
	}
	return c
}

// all has the processes obey an order, all at once.
func (c *crowd) all(order string) {
	c.tb.Helper()
	var wg sync.WaitGroup
	for _, p := range c.processes {
		wg.Go(func() {
			if answer, err := p.Ask(order); err != nil || answer != "done" {
				c.tb.Errorf("%s: %s, %v", order, answer, err)
			}
		})
	}
	wg.Wait()
}

const crowdVariable = "SLID_TEST_CROWD"

// TestCrowd is a process of a crowd: it prints the ports of its services and does what is ordered.
func TestCrowd(t *testing.T) {
	if os.Getenv(crowdVariable) == "" {
		return
	}
	const services = crowdServices / crowdProcesses
	var ports []int
	for range services {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		go answerAll(l)
	}
	fmt.Println(strings.Trim(fmt.Sprint(ports), "[]"))
	var open []net.Conn
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		var err error
		switch orders.Text() {
		case "connect":
			open, err = connectAll(ports)
		case "ask":
			err = askAll(open, services)
		case "disconnect":
			for _, conn := range open {
				conn.Close()
			}
			open = nil
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("done")
	}
}

// connectAll opens the connections of a process. Those to port i are i, i+len(ports), ...
func connectAll(ports []int) (open []net.Conn, err error) {
	for i := range crowdConnections / crowdProcesses {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[i%len(ports)]))
		if err != nil {
			return open, fmt.Errorf("connection %d: %w", i, err)
		}
		open = append(open, conn)
	}
	return open, nil
}

// askAll sends a request over each connection: of those of a service, over every fourth one that fails.
func askAll(open []net.Conn, services int) error {
	var buf [128]byte
	for i, conn := range open {
		round, status := i/services, 200
		if round%4 == 0 {
			status = 500
		}
		_, err := fmt.Fprintf(conn, "GET /api/v%d/%d HTTP/1.1\r\n\r\n", round%crowdRoutes, status)
		if err == nil {
			_, err = conn.Read(buf[:])
		}
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	return nil
}

func answerAll(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go answer(conn)
	}
}

func answer(conn net.Conn) {
	defer conn.Close()
	var request [64]byte
	for {
		n, err := conn.Read(request[:])
		if err != nil {
			return
		}
		status := "200 OK"
		if strings.Contains(string(request[:n]), "/500 ") {
			status = "500 No"
		}
		if _, err := io.WriteString(conn, "HTTP/1.1 "+status+"\r\nContent-Length: 0\r\n\r\n"); err != nil {
			return
		}
	}
}

// objectives returns an objective for each service, about its 20 routes, and the names of the services.
func (c *crowd) objectives(tb testing.TB) (*Objectives, []Override) {
	tb.Helper()
	var routes []string
	for k := range crowdRoutes {
		routes = append(routes, fmt.Sprintf(`"/api/v%d/"`, k))
	}
	var list []slo.Indicator
	var names []Override
	for i, port := range c.ports {
		one := indicator(tb, fmt.Sprint("objective-", i), "", "status < 500 && duration <= 20s && route in ["+strings.Join(routes, ", ")+"]", "")
		one.Select.Service = fmt.Sprint("service-", i)
		list = append(list, one)
		names = append(names, Override{Name: one.Select.Service, Port: uint16(port)})
	}
	return objectivesOf(tb, list...), names
}

// TestLargeHost has 200 objectives of 200 services with 20 routes each, and 20,000 connections: every count is exact, the
// memory bounded, and reading allocates nothing.
func TestLargeHost(t *testing.T) {
	c := newCrowd(t)
	o, names := c.objectives(t)
	before := heap()
	r := newRigWith(t, cgroupMount(t), o, names...)
	c.all("connect")
	const each = crowdConnections / crowdServices
	for round := range 2 {
		c.all("ask")
		want := judged{"good": int64(round+1) * each * 3 / 4, "bad": int64(round+1) * each / 4}
		time.Sleep(1100 * time.Millisecond) // until all responses are quiet
		r.collect()
		for i := range crowdServices {
			if got := r.judged(fmt.Sprint("objective-", i)); !maps.Equal(got, want) {
				t.Errorf("service %d: %v, want %v", i, got, want)
			}
		}
	}
	began := time.Now()
	if err := r.traffic.Collect(context.Background(), began); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	if n := testing.AllocsPerRun(5, func() { _ = r.traffic.Collect(context.Background(), began) }); n != 0 {
		t.Errorf("%v allocations per collection", n)
	}
	kernel := r.traffic.probe.Memory()
	if kernel > 7<<20 {
		t.Errorf("the maps take %d KiB", kernel>>10)
	}
	c.all("disconnect")
	agent := heap() - before
	if agent > 24<<20 {
		t.Errorf("the agent's heap grew by %d KiB", agent>>10)
	}
	t.Logf("%d services, %d connections: maps %d KiB, the agent's heap %d KiB, a collection %v",
		crowdServices, crowdConnections, kernel>>10, agent>>10, took)
}

// heap returns what is in use of the heap.
func heap() int64 {
	time.Sleep(200 * time.Millisecond)
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkLargeHost measures what a request to nginx costs on such a host: its pairs are the probe with one objective on a
// host without connections, and with one of nginx beside those of 200 services with 20,000 connections.
func BenchmarkLargeHost(b *testing.B) {
	n := startNginx(b, false)
	loadFor(b, n, "1s") // warm up
	c := newCrowd(b)
	at := map[bpf.HTTPEndpoint]uint32{{Port: uint32(n.port)}: bpf.HTTPFirstSet}
	own := indicator(b, "own", "/", "status < 500 && duration <= 100ms", "")
	few := objectivesOf(b, own).sets(at)
	many, _ := c.objectives(b)
	all := objectivesOf(b, own)
	all.services = append(all.services, many.services...)
	all.total += many.total
	sets := all.sets(at)
	comparePairs(b, func(with bool) round {
		if !with {
			return measure(b, n, true, few)
		}
		c.all("connect")
		defer c.all("disconnect")
		return measure(b, n, true, sets)
	})
}
