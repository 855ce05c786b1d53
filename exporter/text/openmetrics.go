package text

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/slid-agent/slid/internal/metric"
)

// family is an OpenMetrics metric family. Its lines may come from several resources.
type family struct {
	kind, unit, help string
	lines            bytes.Buffer
	seen             map[string]bool // label sets written: a series may stand there once
}

// exposition is an OpenMetrics text in the making.
type exposition struct {
	families map[string]*family
	samples  map[string]string // name of a sample -> its family: no two families may have it
}

// writeOpenMetrics writes all resources in OpenMetrics text format 1.0, with the names that OpenTelemetry's
// compatibility rules give them (specification/compatibility/prometheus_and_openmetrics.md). job and instance
// tell resources apart; their other attributes stand in target_info. Exponential histograms become classic ones with
// exact bounds. Samples bear no time, and there are no otel_scope labels, as all series have one scope.
func writeOpenMetrics(b *bytes.Buffer, resources []metricdata.ResourceMetrics) {
	x := exposition{families: map[string]*family{}, samples: map[string]string{}}
	for _, rm := range resources {
		labels := x.target(rm.Resource.Set())
		for _, sm := range rm.ScopeMetrics {
			for _, m := range sm.Metrics {
				x.add(m, labels)
			}
		}
	}
	x.write(b)
}

// write writes the families by name, target_info before all.
func (x *exposition) write(b *bytes.Buffer) {
	names := make([]string, 0, len(x.families))
	for name := range x.families {
		names = append(names, name)
	}
	slices.Sort(names)
	if i := slices.Index(names, "target"); i > 0 {
		names = slices.Insert(slices.Delete(names, i, i+1), 0, "target")
	}
	for _, name := range names {
		f := x.families[name]
		if f.lines.Len() == 0 {
			continue
		}
		b.WriteString("# TYPE " + name + " " + f.kind + "\n")
		if f.unit != "" {
			b.WriteString("# UNIT " + name + " " + f.unit + "\n")
		}
		if f.help != "" {
			b.WriteString("# HELP " + name + " " + escape(f.help) + "\n")
		}
		b.Write(f.lines.Bytes())
	}
	b.WriteString("# EOF\n")
}

// target adds the target_info of a resource and returns the labels of its series.
func (x *exposition) target(attrs *attribute.Set) string {
	job, instance := text(*attrs, keyServiceName), text(*attrs, keyInstance)
	if ns := text(*attrs, keyNamespace); ns != "" && job != "" {
		job = ns + "/" + job
	}
	identity := pair("job", job) + "," + pair("instance", instance)
	rest, _ := attrs.Filter(func(kv attribute.KeyValue) bool {
		return kv.Key != keyServiceName && kv.Key != keyNamespace && kv.Key != keyInstance
	})
	f := x.family("target", "info", "", "Attributes of the resource that job and instance name.", "_info")
	if f != nil && f.first(identity) {
		f.lines.WriteString("target_info{" + join(identity, labelsOf(rest)) + "} 1\n")
	}
	return identity
}

// family returns the family of a name, a new one if need be. It is nil if the name is taken for something else: then
// the rules want the metric dropped.
func (x *exposition) family(name, kind, unit, help string, suffixes ...string) *family {
	if f, ok := x.families[name]; ok {
		if f.kind != kind || f.unit != unit {
			return nil
		}
		return f
	}
	for _, suffix := range append(suffixes, "") {
		if _, taken := x.samples[name+suffix]; taken {
			return nil
		}
	}
	for _, suffix := range append(suffixes, "") {
		x.samples[name+suffix] = name
	}
	f := &family{kind: kind, unit: unit, help: help, seen: map[string]bool{}}
	x.families[name] = f
	return f
}

// first says whether the labels are new to the family.
func (f *family) first(labels string) bool {
	if f.seen[labels] {
		return false
	}
	f.seen[labels] = true
	return true
}

func (x *exposition) add(m metricdata.Metrics, target string) {
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		addPoints(x, m, data.IsMonotonic, false, target, data.DataPoints)
	case metricdata.Sum[float64]:
		addPoints(x, m, data.IsMonotonic, false, target, data.DataPoints)
	case metricdata.Gauge[int64]:
		addPoints(x, m, false, true, target, data.DataPoints)
	case metricdata.Gauge[float64]:
		addPoints(x, m, false, true, target, data.DataPoints)
	case metricdata.ExponentialHistogram[float64]:
		unit := promUnit(m.Unit, false)
		f := x.family(promName(m.Name, unit), "histogram", unit, m.Description, "_bucket", "_count", "_sum", "_created")
		if f == nil {
			return
		}
		for _, p := range data.DataPoints {
			if labels := join(target, labelsOf(p.Attributes)); f.first(labels) {
				f.histogram(promName(m.Name, unit), labels, p)
			}
		}
	}
}

// addPoints adds the points of a sum or gauge. Values that OpenMetrics does not allow are left out: no counter is
// negative, and what is not a number was not measured.
func addPoints[N int64 | float64](
	x *exposition, m metricdata.Metrics, monotonic, gauge bool, target string, points []metricdata.DataPoint[N],
) {
	unit := promUnit(m.Unit, gauge)
	name := promName(m.Name, unit)
	kind, suffixes := "gauge", []string(nil)
	if monotonic {
		name = strings.TrimSuffix(name, "_total")
		kind, suffixes = "counter", []string{"_total", "_created"}
	}
	f := x.family(name, kind, unit, m.Description, suffixes...)
	if f == nil {
		return
	}
	for _, p := range points {
		labels := join(target, labelsOf(p.Attributes))
		if !finite(float64(p.Value)) || monotonic && p.Value < 0 || !f.first(labels) {
			continue
		}
		if !monotonic {
			f.sample(name, labels, number64(p.Value))
			continue
		}
		f.sample(name+"_total", labels, number64(p.Value))
		f.created(name, labels, p.StartTime)
	}
}

// histogram writes the bounds of each bucket in use: where a bucket follows on empty ones its lower bound as well,
// so that quantiles computed from it do not spread over the gap.
func (f *family) histogram(name, labels string, p metricdata.ExponentialHistogramDataPoint[float64]) {
	bucket := func(le string, n uint64) {
		f.sample(name+"_bucket", labels+`,le="`+le+`"`, strconv.FormatUint(n, 10))
	}
	total, last := p.ZeroCount, 0.0
	if p.ZeroCount > 0 && p.ZeroThreshold > 0 {
		last = p.ZeroThreshold
		bucket(canonical(last), total)
	}
	for i, n := range p.PositiveBucket.Counts {
		if n == 0 {
			continue
		}
		index := int(p.PositiveBucket.Offset) + i
		if low := metric.UpperBound(index - 1); low > last {
			bucket(canonical(low), total)
		}
		total += n
		last = metric.UpperBound(index)
		bucket(canonical(last), total)
	}
	bucket("+Inf", total)
	f.sample(name+"_count", labels, strconv.FormatUint(total, 10))
	f.sample(name+"_sum", labels, number64(p.Sum))
	f.created(name, labels, p.StartTime)
}

func (f *family) sample(name, labels, value string) {
	f.lines.WriteString(name)
	f.lines.WriteByte('{')
	f.lines.WriteString(labels)
	f.lines.WriteString("} ")
	f.lines.WriteString(value)
	f.lines.WriteByte('\n')
}

// created writes when the series began, if that is known.
func (f *family) created(name, labels string, start time.Time) {
	if start.IsZero() {
		return
	}
	f.sample(name+"_created", labels, strconv.FormatFloat(float64(start.UnixMilli())/1e3, 'f', 3, 64))
}

func number64[N int64 | float64](v N) string {
	switch v := any(v).(type) {
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return ""
}

// canonical writes a bucket bound as OpenMetrics wants it: shortest form, and 1.0 for 1.
func canonical(v float64) string {
	s := strconv.FormatFloat(v, 'g', -1, 64)
	if !strings.ContainsAny(s, ".e") {
		s += ".0"
	}
	return s
}
