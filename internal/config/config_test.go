package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/slo"
)

// exported compares what users of the package see.
var exported = cmpopts.IgnoreUnexported(Config{}, Service{})

func TestValid(t *testing.T) {
	got, err := Load("testdata/valid.yaml")
	if err != nil {
		t.Fatal(err)
	}
	everything := []metric.Class{metric.ClassHost, metric.ClassLatency, metric.ClassService, metric.ClassSLO, metric.ClassAgent}
	want := Config{
		Interval: 5 * time.Second,
		Host:     Host{Disabled: []string{"disk", "pressure"}, Root: "/host", PerCPU: true},
		Latency: Latency{
			Disabled: []string{"runqueue"}, Enabled: []string{"softirq"}, CPUBudget: 0.01, Syscalls: []string{"open", "fsync"},
		},
		Services: []Service{
			{Name: "checkout", Match: Match{Port: 8080}, Routes: []string{"/pay/", "/cart/"}},
			{Name: `Warenkorb "neu"`, Match: Match{Unit: "cart.service", Command: "java"}},
			{Name: "checkout", Match: Match{Container: "4c01db0b339c"}},
		},
		SLOs: []slo.Objective{
			{
				Name: "checkout-fast", Service: "checkout", Target: 0.999, Window: slo.Window{Span: slo.Span{Count: 28, Unit: slo.Day}},
				Members: []slo.Member{{Target: 0.999, Weight: 1, Indicator: slo.Indicator{
					Name: "checkout-fast", Good: condition(t, "status < 500 && duration <= 300ms"),
					Select: slo.Selection{Service: "checkout", Route: "/pay/", Methods: slo.AllMethods},
				}}},
			},
			{
				Name: "search-up", Service: "search", Target: 0.995, Window: slo.Window{Span: slo.Span{Count: 1, Unit: slo.Week}},
				Members: []slo.Member{{Target: 0.995, Weight: 1, Indicator: slo.Indicator{
					Name: "search-up", Good: condition(t, "status < 500"), Select: slo.Selection{Service: "search", Methods: 0b11},
				}}},
			},
		},
		Probes: []Probe{
			{
				Name: "shop", Service: "checkout", Target: &url.URL{Scheme: "https", Host: "shop.example.com", Path: "/health", RawQuery: "deep=1"},
				Interval: 500 * time.Millisecond, Timeout: 2 * time.Second, Method: "POST",
				Headers: map[string]string{"accept": "text/plain", "host": "shop.internal"},
				Expect:  Expect{Status: []string{"2xx", "404"}, Body: "all is well"},
				TLS:     ProbeTLS{CA: "/etc/ssl/own-ca.pem", ServerName: "shop.internal"},
			},
			{Name: "web", Service: "web", Target: &url.URL{Scheme: "http", Host: "[::1]:8080"}, Interval: 10 * time.Second, Timeout: 5 * time.Second, Method: "GET"},
			{Name: "db", Service: "db", Target: &url.URL{Scheme: "tcp", Host: "db:5432", Path: "/"}, Interval: time.Hour, Timeout: time.Minute},
			{Name: "cart", Service: "cart", Target: &url.URL{Scheme: "grpcs", Host: "cart:443", Path: "/shop.Cart"}, Interval: 10 * time.Second, Timeout: 5 * time.Second},
			{Name: "resolver", Service: "resolver", Target: &url.URL{Scheme: "dns", Host: "10.0.0.53", Path: "/example.com.", RawQuery: "type=aaaa"}, Interval: 10 * time.Second, Timeout: 5 * time.Second},
			{Name: "gateway", Service: "gateway", Target: &url.URL{Scheme: "icmp", Host: "10.0.0.1"}, Interval: 10 * time.Second, Timeout: 5 * time.Second},
			{Name: "mail", Service: "mail", Target: &url.URL{Scheme: "tls", Host: "mail:993"}, Interval: 10 * time.Second, Timeout: 5 * time.Second},
		},
		Export: []Destination{
			{
				Name: "slo", Endpoint: "https://slo-gateway:4317", Interval: 5 * time.Second,
				Headers: map[string]string{"authorization": "Bearer abc", "x-tenant": "sre"},
				Select:  []metric.Class{metric.ClassService, metric.ClassSLO, metric.ClassAgent},
				Names:   metric.Semconv,
			},
			{
				Name: "capacity", Endpoint: "http://[::1]:4317/", Interval: time.Minute,
				Select: []metric.Class{metric.ClassHost, metric.ClassLatency, metric.ClassAgent},
				Names:  metric.Prometheus,
			},
			{
				Name: "all.of-it_2", Endpoint: "https://backend.example.com:443", Interval: 5 * time.Second,
				Select: everything, Names: metric.OTelColLegacy,
			},
		},
	}
	if diff := cmp.Diff(want, got, exported); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func condition(t testing.TB, text string) slo.Condition {
	t.Helper()
	c, err := slo.ParseCondition(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestInvalid(t *testing.T) {
	files, err := filepath.Glob("testdata/invalid/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse(name, data)
			checkMessages(t, file, err)
		})
	}
}

// checkMessages compares an error with the messages beside the file.
func checkMessages(t *testing.T, file string, err error) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	messages := strings.TrimSuffix(file, ".yaml") + ".txt"
	if *update {
		if err := os.WriteFile(messages, []byte(err.Error()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, readError := os.ReadFile(messages)
	if readError != nil {
		t.Error(readError)
	}
	if diff := cmp.Diff(string(want), err.Error()+"\n"); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEmptyFormsAreDefaults(t *testing.T) {
	for _, text := range []string{
		"", "\n", "# only a comment\n", "---\n", "{}", "\ufeff# with a byte order mark\n",
		"host:\nlatency:\nservices:\nexport:\n", "host:\n  disabled:\n", "host: {disabled: []}\nexport: []\n",
	} {
		got, err := Parse("slid.yaml", []byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(Default(), got, exported, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

func TestLoadFileThatMayBeMissing(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "slid.yaml")
	got, err := load(missing, true)
	if err != nil {
		t.Errorf("default file missing: %v", err)
	}
	if diff := cmp.Diff(Default(), got, exported); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err = Load(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("named file missing: %v", err)
	}
}

func TestLoadFileThatIsNone(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(large, bytes.Repeat([]byte("#\n"), maxSize), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, path, want string }{
		{"missing", dir + "/none.yaml", ": cannot be read: no such file or directory; check the path, or leave --config out to run with defaults"},
		{"a directory", dir, ": cannot be read: is a directory; name a regular file"},
		{"too large", large, ":1:1: the file is larger than 1 MiB; is it the right file?"},
		{"endless", "/dev/zero", ":1:1: the file is larger than 1 MiB; is it the right file?"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(tt.path)
			if err == nil || err.Error() != tt.path+tt.want {
				t.Errorf("error %v, want %s%s", err, tt.path, tt.want)
			}
		})
	}
}

// The tests run as root, who may read everything, so the error is made up.
func TestUnreadableFile(t *testing.T) {
	err := fileProblem("slid.yaml", &fs.PathError{Op: "open", Path: "slid.yaml", Err: syscall.EACCES})
	want := "slid.yaml: cannot be read: permission denied; make it readable for the user slid runs as"
	if err.Error() != want || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestCheckCollectors(t *testing.T) {
	c, err := Parse("slid.yaml", []byte("host:\n  disabled: [disk, netwrok]\n"+
		"latency:\n  disabled: [disk, softirq]\n  enabled: [softirk, softirq]\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := "slid.yaml:2:20: host.disabled[1]: there is no netwrok to disable; did you mean network?\n" +
		"slid.yaml:4:14: latency.disabled[0]: there is no disk to disable; known names: runqueue, softirq\n" +
		"slid.yaml:5:13: latency.enabled[0]: there is no softirk to enable; did you mean softirq?\n" +
		"slid.yaml:5:22: latency.enabled[1]: softirq is both enabled and disabled; remove it from one of the two lists"
	err = c.CheckCollectors(map[string][]string{"host": {"cpu", "disk", "network"}, "latency": {"runqueue", "softirq"}})
	if err == nil || err.Error() != want {
		t.Errorf("error:\n%v\nwant:\n%s", err, want)
	}
	if c, err = Parse("slid.yaml", []byte("latency: {enabled: [softirq], disabled: [disk]}")); err != nil {
		t.Fatal(err)
	}
	if err := c.CheckCollectors(map[string][]string{"latency": {"disk", "softirq"}}); err != nil {
		t.Errorf("known names: %v", err)
	}
}

func TestProblemsAreBounded(t *testing.T) {
	_, err := Parse("slid.yaml", []byte("services:\n"+strings.Repeat("- 1\n", 1000)))
	list, ok := err.(interface{ Unwrap() []error })
	if !ok || len(list.Unwrap()) != maxProblems+1 {
		t.Fatalf("not bounded: %v", err)
	}
	want := "slid.yaml:52:3: 950 more problems from here on; mend the others first"
	if last := list.Unwrap()[maxProblems].Error(); last != want {
		t.Errorf("last is %q, want %q", last, want)
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"interval", "interval", 0},
		{"intervall", "interval", 1},
		{"prot", "port", 1},
		{"kitten", "sitting", 3},
		{strings.Repeat("x", 1000), "port", 996},
	} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if got := distance(tt.b, tt.a); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.b, tt.a, got, tt.want)
		}
	}
}

// place is what the message of every problem begins with.
var place = regexp.MustCompile(`^slid\.yaml:[1-9][0-9]*(:[1-9][0-9]*)?: `)

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, "testdata/valid.yaml") {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("\r\r00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("slid.yaml", data)
		if err == nil {
			checkSound(t, c)
			return
		}
		lines := 1
		for _, r := range string(data) {
			if strings.ContainsRune("\r\n\u0085\u2028\u2029", r) { // what ends a line in YAML
				lines++
			}
		}
		for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
			p, ok := errors.AsType[*Problem](e)
			if !ok || !place.MatchString(e.Error()) || p.Line > lines+1 || p.Remedy == "" {
				t.Errorf("%d lines: no place or remedy in %q", lines, e)
			}
			if strings.ContainsFunc(e.Error(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("control characters in %q", e)
			}
		}
	})
}

// checkSound checks what every accepted configuration promises.
func checkSound(t *testing.T, c Config) {
	t.Helper()
	names := make(map[string]bool)
	for _, dest := range c.Export {
		if dest.Name == "" || names[dest.Name] || dest.Endpoint == "" || len(dest.Select) == 0 ||
			dest.Interval < c.Interval || dest.Interval%c.Interval != 0 || dest.Interval > MaxInterval {
			t.Errorf("destination %+v of interval %v", dest, c.Interval)
		}
		names[dest.Name] = true
	}
	for _, s := range c.Services {
		if s.Name == "" || s.Match == (Match{}) {
			t.Errorf("service %+v", s)
		}
	}
	for _, o := range c.SLOs {
		if o.Name == "" || o.Service == "" || o.Target <= 0 || o.Target >= 1 || len(o.Members) == 0 {
			t.Errorf("objective %+v", o)
		}
	}
	for _, p := range c.Probes {
		if p.Name == "" || p.Service == "" || p.Target == nil || p.Target.Hostname() == "" || p.Interval < MinProbeInterval ||
			p.Timeout < MinProbeTimeout || p.Timeout > MaxProbeOverlap*p.Interval {
			t.Errorf("probe %+v", p)
		}
	}
	if c.Interval < MinInterval || c.Interval > MaxInterval || !filepath.IsAbs(c.Host.Root) {
		t.Errorf("interval %v, root %q", c.Interval, c.Host.Root)
	}
}

// TestCheckRoutes has only the caller know how many routes can be counted; the message stands where they do.
func TestCheckRoutes(t *testing.T) {
	c, err := Parse("slid.yaml", []byte("services:\n  - name: shop\n    match: {port: 80}\n    routes: [/a/, /b/]\n  - name: bare\n    match: {port: 81}\n"))
	if err != nil {
		t.Fatal(err)
	}
	err = c.CheckRoutes(func(service string, routes []string) (what, remedy string) {
		if len(routes) == 0 {
			return "", ""
		}
		return fmt.Sprintf("%s has %d routes", service, len(routes)), "name fewer"
	})
	if want := "slid.yaml:4:13: services[0].routes: shop has 2 routes; name fewer"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
