package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/internal/metric"
)

// hostDeclarations returns the declarations that maps of names may rename, by name.
func hostDeclarations(t *testing.T) map[string]metric.Desc {
	t.Helper()
	found := map[string]metric.Desc{}
	for _, d := range declarations(t) {
		for _, desc := range d.full() {
			if d.Class != metric.ClassAgent {
				found[desc.Name] = desc
			}
		}
	}
	return found
}

// TestNamesHaveNoDeadRows checks each row of the maps against what is declared.
func TestNamesHaveNoDeadRows(t *testing.T) {
	declared := hostDeclarations(t)
	for _, names := range metric.AllNames() {
		for _, r := range names.Renames() {
			desc, ok := declared[r.Metric]
			if !ok {
				t.Errorf("%s: nothing declares %s", names, r.Metric)
				continue
			}
			for _, key := range keysOf(r) {
				if !slices.Contains(desc.Attributes, attribute.Key(key)) {
					t.Errorf("%s: %s has no attribute %s", names, r.Metric, key)
				}
			}
		}
	}
}

// keysOf returns the declared attributes that a row speaks of.
func keysOf(r metric.Rename) []string {
	var keys []string
	for _, pairs := range []metric.Pairs{r.Where, r.Keys, r.Prefix} {
		for key := range pairs {
			keys = append(keys, key)
		}
	}
	for key := range r.Values {
		keys = append(keys, string(key))
	}
	return keys
}

// TestNamesAreInjective sends a series for every combination of the attribute values that a map knows, and of two that
// it does not, of everything that is declared: no two may meet under one name with the same attributes, and all under
// one name are of one kind.
func TestNamesAreInjective(t *testing.T) {
	for _, names := range metric.AllNames() {
		r := metric.NewRegistry(instrumentation.Scope{})
		total, host := 0, resource.Empty()
		all := declarations(t)
		for _, d := range all {
			if d.Class != metric.ClassHost {
				continue
			}
			g := r.Group(d.Name, d.Class, 1e6)
			for _, desc := range d.descs {
				unknown := "v"
				if declaredTwice(all, desc.Name) { // each collector has devices of its own
					unknown = d.Name
				}
				sets := combinations(desc.Name, unknown, desc.Attributes, names)
				if optional := d.optional[desc.Name]; optional != nil {
					keys := slices.Concat(desc.Attributes, optional)
					sets = append(sets, combinations(desc.Name, unknown, keys, names)...)
				}
				// An entity each, so that series need not be compared with all others.
				for _, set := range sets {
					g.Int(notHistogram(desc)).With(g.Entity(host, time.Unix(1, 0)), set...).Set(1)
				}
				total += len(sets)
			}
			g.Collected(time.Unix(2, 0))
		}
		s := r.NewSnapshot().Named(names)
		s.Take(time.Unix(2, 0))
		sent := checkDistinct(t, names, s.Resources[0].ScopeMetrics[0].Metrics)
		t.Logf("%s: %d series under %d names", names, total, len(sent))
		for _, row := range names.Renames() {
			if !sent[row.Name] {
				t.Errorf("%s: %s never becomes %s", names, row.Metric, row.Name)
			}
		}
	}
}

// declaredTwice says whether several collectors of the host declare the metric.
func declaredTwice(all []declaration, name string) bool {
	count := 0
	for _, d := range all {
		if d.Class == metric.ClassHost && slices.ContainsFunc(d.descs, func(o metric.Desc) bool { return o.Name == name }) {
			count++
		}
	}
	return count > 1
}

// notHistogram makes the declaration one of whole numbers: names do not depend on it.
func notHistogram(d metric.Desc) metric.Desc {
	if d.Kind == metric.Histogram {
		d.Kind = metric.Gauge
	}
	return d
}

// combinations returns all sets of attributes with the values that rows know of each key and two more. An attribute
// that a row leaves out follows from the others: the mode of a mount, the id of an interface.
func combinations(name, unknown string, keys []attribute.Key, names metric.Names) [][]attribute.KeyValue {
	sets := [][]attribute.KeyValue{nil}
	for _, key := range keys {
		values := []string{unknown + "1", unknown + "2"}
		for _, r := range names.Renames() {
			if sent, ok := r.Keys[string(key)]; ok && sent == "" && r.Metric == name {
				values = values[:1]
			}
			if v, ok := r.Where[string(key)]; ok {
				values = append(values, v)
			}
			for v := range r.Values[key] {
				values = append(values, v)
			}
		}
		slices.Sort(values)
		var more [][]attribute.KeyValue
		for _, set := range sets {
			for _, v := range slices.Compact(values) {
				more = append(more, append(slices.Clone(set), key.String(v)))
			}
		}
		sets = more
	}
	return sets
}

// checkDistinct looks for series that cannot be told apart and returns the names in use.
func checkDistinct(t *testing.T, names metric.Names, list []metricdata.Metrics) map[string]bool {
	t.Helper()
	seen, kinds, sent := map[string]bool{}, map[string]string{}, map[string]bool{}
	for _, m := range list {
		var points []metricdata.DataPoint[int64]
		kind := ""
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			points, kind = data.DataPoints, fmt.Sprint(data.IsMonotonic, m.Unit)
		case metricdata.Gauge[int64]:
			points, kind = data.DataPoints, "gauge"+m.Unit
		}
		if other, ok := kinds[m.Name]; ok && other != kind {
			t.Errorf("%s: %s is of two kinds or units, %s and %s", names, m.Name, other, kind)
		}
		kinds[m.Name], sent[m.Name] = kind, true
		for _, p := range points {
			id := m.Name + "{" + p.Attributes.Encoded(attribute.DefaultEncoder()) + "}"
			if seen[id] {
				t.Errorf("%s: two series are %s", names, id)
			}
			seen[id] = true
		}
	}
	return sent
}

// legacyMetric is a line of the recorded metadata of the hostmetrics receiver.
type legacyMetric struct {
	unit, kind string
	attributes map[string][]string // the values they may have; nil: any
}

func readLegacy(t *testing.T) map[string]legacyMetric {
	t.Helper()
	data, err := os.ReadFile("testdata/hostmetrics-v0.165.txt")
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]legacyMetric{}
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		m := legacyMetric{unit: fields[1], kind: fields[2], attributes: map[string][]string{}}
		for _, a := range fields[3:] {
			key, values, enum := strings.Cut(a, "=")
			m.attributes[key] = nil
			if enum {
				m.attributes[key] = strings.Split(values, "|")
			}
		}
		list[fields[0]] = m
	}
	return list
}

// TestLegacyNamesAreThoseOfTheCollector compares the map otelcol-legacy with the receiver's own metadata: the rows, and
// what has no row because the names are the same.
func TestLegacyNamesAreThoseOfTheCollector(t *testing.T) {
	legacy := readLegacy(t)
	renamed := map[string]bool{}
	declared := hostDeclarations(t)
	for _, r := range metric.OTelColLegacy.Renames() {
		renamed[r.Metric] = true
		theirs, ok := legacy[r.Name]
		if !ok {
			t.Errorf("%s: the receiver has no %s", r.Metric, r.Name)
			continue
		}
		desc := declared[r.Metric]
		if r.Unit != "" {
			desc.Unit = r.Unit
		}
		checkLegacy(t, r.Metric, theirs, desc, sentKeys(r, desc))
		for key, values := range r.Values {
			allowed := theirs.attributes[r.Keys[string(key)]]
			for _, sent := range values {
				if allowed != nil && !slices.Contains(allowed, sent) {
					t.Errorf("%s: %s=%s is none of %q", r.Name, r.Keys[string(key)], sent, allowed)
				}
			}
		}
	}
	for name, desc := range declared {
		if theirs, ok := legacy[name]; ok && !renamed[name] && unlikeLegacy(name) == "" {
			checkLegacy(t, name, theirs, desc, sentKeys(metric.Rename{}, desc))
		}
	}
}

// unlikeLegacy says why a metric of the same name has no row and other attributes: no number of theirs is ours.
func unlikeLegacy(name string) string {
	switch {
	case name == "system.paging.faults" || name == "system.paging.operations":
		return "the receiver multiplies them by the size of a page (gopsutil's SwapMemory)"
	case strings.HasPrefix(name, "process."):
		return "the receiver shows single processes, each as a resource"
	}
	return ""
}

// sentKeys returns the attributes of a series as a row sends them. Optional ones of ours come last and may be missing.
func sentKeys(r metric.Rename, desc metric.Desc) []string {
	var keys []string
	for _, key := range desc.Attributes {
		switch sent, ok := r.Keys[string(key)]; {
		case r.Where[string(key)] != "":
		case ok && sent == "":
		case ok:
			keys = append(keys, sent)
		default:
			keys = append(keys, string(key))
		}
	}
	return keys
}

func checkLegacy(t *testing.T, name string, theirs legacyMetric, desc metric.Desc, keys []string) {
	t.Helper()
	if desc.Unit != theirs.unit || desc.Kind.String() != theirs.kind {
		t.Errorf("%s is a %s in %s, the receiver's a %s in %s", name, desc.Kind, desc.Unit, theirs.kind, theirs.unit)
	}
	for _, key := range keys {
		if _, ok := theirs.attributes[key]; !ok && key != "cpu.logical_number" {
			t.Errorf("%s has the attribute %s, the receiver's has %v", name, key, theirs.attributes)
		}
	}
	for key := range theirs.attributes {
		if !slices.Contains(keys, key) && key != "cpu" {
			t.Errorf("%s lacks the attribute %s of the receiver's", name, key)
		}
	}
}
