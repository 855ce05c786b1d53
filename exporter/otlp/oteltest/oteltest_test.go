package oteltest

import (
	"os"
	"strings"
	"testing"
)

// The Collector's module and this package must agree, lest the cache hold another version than it says.
func TestVersionIsThatOfTheModule(t *testing.T) {
	gomod, err := os.ReadFile("../../../internal/tools/otelcol/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "go.opentelemetry.io/collector/otelcol v" + Version + "\n"; !strings.Contains(string(gomod), want) {
		t.Errorf("go.mod has no line %q", want)
	}
}

func TestParse(t *testing.T) {
	// A line as the Collector 0.155 wrote it.
	const line = `{"resourceMetrics":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"a"}}]},` +
		`"scopeMetrics":[{"scope":{},"metrics":[{"name":"m","unit":"1","sum":{"dataPoints":[{"startTimeUnixNano":"1",` +
		`"timeUnixNano":"2","asInt":"3"}],"aggregationTemporality":2,"isMonotonic":true}}]}]}]}` + "\n"
	requests, err := parse([]byte(line + line + `{"resourceMetr`))
	if err != nil || len(requests) != 2 {
		t.Fatalf("%d requests, error %v; want 2 and none: the last line is not complete", len(requests), err)
	}
	point := requests[1].ResourceMetrics[0].ScopeMetrics[0].Metrics[0].GetSum().DataPoints[0]
	if point.GetAsInt() != 3 || point.StartTimeUnixNano != 1 {
		t.Errorf("point %v", point)
	}
	if _, err := parse([]byte("{}\n!\n")); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("error %v, want one on line 2", err)
	}
}

func TestCollectorStartsAndStops(t *testing.T) {
	c := Start(t)
	if got := c.Requests(t); len(got) != 0 {
		t.Errorf("%d requests before the first", len(got))
	}
	c.Stop(t)
	c.Stop(t)
}
