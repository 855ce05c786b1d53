package text

import (
	"bytes"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
)

// omSample is a line with a value.
type omSample struct {
	name   string
	labels []omLabel
	value  float64
	raw    string
}

type omLabel struct{ name, value string }

func (s omSample) label(name string) string {
	for _, l := range s.labels {
		if l.name == name {
			return l.value
		}
	}
	return ""
}

// point returns what tells metric points of a family apart: all labels but le.
func (s omSample) point() string {
	var b strings.Builder
	for _, l := range s.labels {
		if l.name != "le" {
			fmt.Fprintf(&b, "%s=%q ", l.name, l.value)
		}
	}
	return b.String()
}

type omFamily struct {
	name, kind, unit string
	help             bool
	samples          []omSample
}

var (
	omName      = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	omLabelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
	omSuffixes  = map[string][]string{
		"counter": {"_total", "_created"}, "gauge": {""}, "info": {"_info"},
		"histogram": {"_bucket", "_count", "_sum", "_created"},
	}
)

// checkOpenMetrics checks text against the OpenMetrics 1.0 specification, as far as it concerns the types slid uses,
// more strictly than parsers do. It returns the families by name.
func checkOpenMetrics(t *testing.T, text string) map[string]*omFamily {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Fatal("not UTF-8")
	}
	body, ok := strings.CutSuffix(text, "# EOF\n")
	if !ok || strings.HasPrefix(body, "# EOF\n") || strings.Contains(body, "\n# EOF\n") {
		t.Fatal("# EOF is not the last line, or not the only one")
	}
	families := map[string]*omFamily{}
	var current *omFamily
	for line := range strings.Lines(body) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# "); ok {
			current = omMetadata(t, families, current, rest)
			continue
		}
		s, err := parseSample(line)
		if err != nil {
			t.Fatalf("%v in line: %s", err, line)
		}
		if current == nil || !slices.Contains(omSuffixes[current.kind], strings.TrimPrefix(s.name, current.name)) || !strings.HasPrefix(s.name, current.name) {
			t.Fatalf("sample outside of its family: %s", line)
		}
		current.samples = append(current.samples, s)
	}
	checkNames(t, families)
	for _, f := range families {
		f.check(t)
	}
	return families
}

func omMetadata(t *testing.T, families map[string]*omFamily, current *omFamily, rest string) *omFamily {
	t.Helper()
	part := strings.SplitN(rest, " ", 3)
	if len(part) != 3 {
		t.Fatalf("metadata without a value: %s", rest)
	}
	if current == nil || current.name != part[1] {
		if families[part[1]] != nil || !omName.MatchString(part[1]) {
			t.Fatalf("family %q is scattered or has a bad name", part[1])
		}
		current = &omFamily{name: part[1]}
		families[part[1]] = current
	}
	if len(current.samples) > 0 {
		t.Fatalf("metadata after samples: %s", rest)
	}
	switch {
	case part[0] == "TYPE" && current.kind == "" && omSuffixes[part[2]] != nil:
		current.kind = part[2]
	case part[0] == "UNIT" && current.unit == "" && strings.HasSuffix(current.name, "_"+part[2]):
		current.unit = part[2]
	case part[0] == "HELP" && !current.help && regexp.MustCompile(`^([^\\"]|\\[\\"n])*$`).MatchString(part[2]):
		current.help = true
	default:
		t.Fatalf("bad or repeated metadata: %s", rest)
	}
	return current
}

// checkNames proves that no sample name belongs to two families.
func checkNames(t *testing.T, families map[string]*omFamily) {
	t.Helper()
	taken := map[string]string{}
	for _, f := range families {
		for _, suffix := range append([]string{""}, omSuffixes[f.kind]...) {
			if other := taken[f.name+suffix]; other != "" && other != f.name {
				t.Errorf("%s of %s clashes with %s", f.name+suffix, f.name, other)
			}
			taken[f.name+suffix] = f.name
		}
	}
}

// check checks the samples of a family: whole points side by side, none twice, values as the type allows.
func (f *omFamily) check(t *testing.T) {
	t.Helper()
	if f.kind == "" || f.kind == "info" && f.unit != "" || len(f.samples) == 0 {
		t.Errorf("%s: kind %q, unit %q, %d samples", f.name, f.kind, f.unit, len(f.samples))
	}
	done := map[string]bool{}
	for i := 0; i < len(f.samples); {
		end := i + 1
		for end < len(f.samples) && f.samples[end].point() == f.samples[i].point() {
			end++
		}
		if key := f.samples[i].point(); done[key] {
			t.Errorf("%s: point %s stands twice", f.name, key)
		} else {
			done[key] = true
		}
		f.checkPoint(t, f.samples[i:end])
		i = end
	}
}

func (f *omFamily) checkPoint(t *testing.T, samples []omSample) {
	t.Helper()
	var names []string
	for _, s := range samples {
		if math.IsNaN(s.value) || s.value < 0 && f.kind != "gauge" {
			t.Errorf("%s: value %v", s.name, s.value)
		}
		names = append(names, strings.TrimPrefix(s.name, f.name))
		if (s.label("le") != "") != (f.kind == "histogram" && strings.HasSuffix(s.name, "_bucket")) {
			t.Errorf("%s: le is %q", s.name, s.label("le"))
		}
	}
	switch f.kind {
	case "info":
		if len(samples) != 1 || samples[0].raw != "1" {
			t.Errorf("%s: an info is one 1: %v", f.name, samples)
		}
	case "gauge":
		if len(samples) != 1 {
			t.Errorf("%s: %d values of one gauge", f.name, len(samples))
		}
	case "counter":
		if !slices.Equal(names, []string{"_total", "_created"}) && !slices.Equal(names, []string{"_total"}) {
			t.Errorf("%s: counter of %q", f.name, names)
		}
	case "histogram":
		f.checkHistogram(t, samples)
	}
}

func (f *omFamily) checkHistogram(t *testing.T, samples []omSample) {
	t.Helper()
	n := len(samples) - 3
	if n < 1 || samples[n].name != f.name+"_count" || samples[n+1].name != f.name+"_sum" || samples[n+2].name != f.name+"_created" {
		t.Fatalf("%s: histogram is not buckets, count, sum, created: %v", f.name, samples)
	}
	le, count := math.Inf(-1), 0.0
	for _, b := range samples[:n] {
		bound, err := strconv.ParseFloat(b.label("le"), 64)
		if err != nil || bound <= le || b.value < count || b.value != math.Trunc(b.value) {
			t.Errorf("%s: bucket le=%q with %v after le=%v with %v", f.name, b.label("le"), b.value, le, count)
		}
		le, count = bound, b.value
	}
	if !math.IsInf(le, 1) || samples[n-1].label("le") != "+Inf" || count != samples[n].value {
		t.Errorf("%s: +Inf bucket has %v (le %v), the count is %v", f.name, count, le, samples[n].raw)
	}
}

// parseSample parses name{label="value",...} value.
func parseSample(line string) (omSample, error) {
	name, rest, ok := strings.Cut(line, "{")
	s := omSample{name: name}
	if !ok || !omName.MatchString(name) {
		return s, fmt.Errorf("bad name %q", name)
	}
	for !strings.HasPrefix(rest, "} ") {
		key, tail, ok := strings.Cut(strings.TrimPrefix(rest, ","), `="`)
		if !ok || !omLabelName.MatchString(key) || s.label(key) != "" {
			return s, fmt.Errorf("bad or double label %q", key)
		}
		value, tail, err := unquote(tail)
		if err != nil {
			return s, err
		}
		if tail == "" || tail[0] != ',' && tail[0] != '}' || strings.HasPrefix(tail, ",}") {
			return s, fmt.Errorf("bad text after label %q", key)
		}
		s.labels = append(s.labels, omLabel{key, value})
		rest = tail
	}
	s.raw = strings.TrimPrefix(rest, "} ")
	if !regexp.MustCompile(`^[+-]?(\d+(\.\d+)?([eE][+-]?\d+)?|Inf)$`).MatchString(s.raw) {
		return s, fmt.Errorf("bad value %q", s.raw)
	}
	var err error
	s.value, err = strconv.ParseFloat(s.raw, 64)
	return s, err
}

// unquote reads up to the closing quote.
func unquote(s string) (value, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:], nil
		case s[i] != '\\':
			b.WriteByte(s[i])
			continue
		case i+1 < len(s) && s[i+1] == 'n':
			b.WriteByte('\n')
		case i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\'):
			b.WriteByte(s[i+1])
		default:
			return "", "", fmt.Errorf("bad escape")
		}
		i++
	}
	return "", "", fmt.Errorf("no closing quote")
}

func TestOpenMetricsIsValidAndComplete(t *testing.T) {
	l := full(t, Options{Format: OpenMetrics})
	l.export(later)
	families := checkOpenMetrics(t, l.out.String())
	want := map[string]string{
		"target": "info", "system_cpu_time_seconds": "counter", "system_memory_usage_bytes": "gauge",
		"http_server_response_count": "counter", "http_server_request_duration_seconds": "histogram",
		"sli_coverage_ratio": "gauge", "system_cpu_load_average_1m": "gauge", "system_cpu_logical_count": "gauge",
		"process_cpu_time_seconds": "counter", "system_cpu_linux_runqueue_duration_seconds": "histogram",
	}
	for name, kind := range want {
		if f := families[name]; f == nil || f.kind != kind {
			t.Errorf("no %s %s", kind, name)
		}
	}
	points := 0
	for _, s := range families["http_server_response_count"].samples {
		if s.name == "http_server_response_count_total" && s.label("job") == "nginx" {
			points++
			if s.raw != "75375" || s.label("instance") != "0f3c/nginx" || s.label("server_port") != "8080" || s.label("http_response_status_code") != "200" {
				t.Errorf("nginx: %+v", s)
			}
		}
	}
	if n := len(families["target"].samples); points != 1 || n != 10 {
		t.Errorf("%d series of nginx, %d targets", points, n)
	}
}

// TestHistogramBucketsAreExact compares each cumulative bucket with the values themselves.
func TestHistogramBucketsAreExact(t *testing.T) {
	l := newLab(t, Options{Format: OpenMetrics})
	h := l.hist(l.latEnt, l.latency, "x.duration")
	values := []float64{0, 1e-9, 1e-3, 1e-3, 1, 1.05, 2, 100}
	for _, v := range values {
		h.Record(v)
	}
	l.export(first)
	l.export(later)
	buckets := 0
	for _, s := range checkOpenMetrics(t, l.out.String())["x_duration_seconds"].samples {
		le, err := strconv.ParseFloat(s.label("le"), 64)
		if err != nil {
			continue
		}
		buckets++
		below := 0
		for _, v := range values {
			if v <= le {
				below++
			}
		}
		if float64(below) != s.value {
			t.Errorf("le=%v has %v, want %d", le, s.value, below)
		}
	}
	if buckets != 1+2*5+1-1 { // zeros, two bounds for each of five (1 and 1.05 are neighbors), +Inf
		t.Errorf("%d buckets", buckets)
	}
}

// TestOpenMetricsConflicts gives two metrics one name, two resources one identity, and attributes one label.
func TestOpenMetricsConflicts(t *testing.T) {
	at := time.Unix(1, 0)
	gauge := func(name string, v float64, attrs ...attribute.KeyValue) metricdata.Metrics {
		return metricdata.Metrics{Name: name, Data: metricdata.Gauge[float64]{DataPoints: []metricdata.DataPoint[float64]{
			{Attributes: attribute.NewSet(attrs...), Value: v},
		}}}
	}
	counter := func(name string, v int64) metricdata.Metrics {
		return metricdata.Metrics{Name: name, Data: metricdata.Sum[int64]{IsMonotonic: true, DataPoints: []metricdata.DataPoint[int64]{
			{StartTime: at, Value: v},
		}}}
	}
	rm := metricdata.ResourceMetrics{
		Resource: resource.NewSchemaless(str("service.name", "s"), str("service.namespace", "n"), str("le", "x")),
		ScopeMetrics: []metricdata.ScopeMetrics{{Metrics: []metricdata.Metrics{
			gauge("a.b", 1, str("x.y", "1"), str("x_y", "2"), str("le", "3"), str("job", "4"), str("9", "5")),
			gauge("a_b", 2), counter("a.b", 3), gauge("c.total", 4), counter("c", 5), counter("d.total", 6),
			counter("e", -1), gauge("f", math.NaN()), gauge("9g", 7), gauge("", 8),
		}}},
	}
	var b bytes.Buffer
	writeOpenMetrics(&b, []metricdata.ResourceMetrics{rm, rm})
	families := checkOpenMetrics(t, b.String())
	if s := families["a_b"].samples; len(s) != 2 || s[0].label("x_y") != "1;2" || s[0].label("exported_le") != "3" || s[0].label("exported_job") != "4" || s[0].label("job") != "n/s" {
		t.Errorf("a_b: %+v", s)
	}
	for name, want := range map[string]bool{"c": false, "c_total": true, "d": true, "e": false, "f": false, "_9g": true, "_": true} {
		if (families[name] != nil) != want {
			t.Errorf("family %q: %v", name, families[name])
		}
	}
}

func TestPromNames(t *testing.T) {
	cases := []struct {
		name, unit string
		gauge      bool
		want       string
	}{
		{"system.cpu.time", "s", false, "system_cpu_time_seconds"},
		{"system.memory.usage", "By", false, "system_memory_usage_bytes"},
		{"sli.coverage", "1", true, "sli_coverage_ratio"},
		{"slid.source.state", "1", false, "slid_source_state"},
		{"http.server.response.count", "{response}", false, "http_server_response_count"},
		{"rate", "By/s", true, "rate_bytes_per_second"},
		{"rate", "{packet}/s", true, "rate_per_second"},
		{"already.seconds", "s", true, "already_seconds"},
		{"odd..name-(x)", "foo bar", true, "odd_name_x_foo_bar"},
		{"temperature", "Cel", true, "temperature_celsius"},
		{"open", "{brace", true, "open"},
	}
	for _, c := range cases {
		if got := promName(c.name, promUnit(c.unit, c.gauge)); got != c.want {
			t.Errorf("%s [%s] is %s, want %s", c.name, c.unit, got, c.want)
		}
	}
}

func FuzzOpenMetricsNames(f *testing.F) {
	f.Add("a.b", "By/s", "k.e.y", "v\"\\\n")
	f.Add("9", "{}", "le", "\x00\xff")
	f.Fuzz(func(t *testing.T, name, unit, key, value string) {
		var b bytes.Buffer
		points := []metricdata.DataPoint[int64]{{Attributes: attribute.NewSet(attribute.String(key, value)), Value: 1}}
		writeOpenMetrics(&b, []metricdata.ResourceMetrics{{
			Resource: resource.NewSchemaless(attribute.String(key, value), attribute.String("service.name", value)),
			ScopeMetrics: []metricdata.ScopeMetrics{{Metrics: []metricdata.Metrics{
				{Name: name, Unit: unit, Description: value, Data: metricdata.Gauge[int64]{DataPoints: points}},
				{Name: name + "2", Unit: unit, Data: metricdata.Sum[int64]{IsMonotonic: true, DataPoints: points}},
			}}},
		}})
		checkOpenMetrics(t, b.String())
	})
}
