package scrape

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/slid-agent/slid/internal/slo"
)

const (
	// startMetric says when the process behind the metrics started; most libraries show it.
	startMetric = "process_start_time_seconds"
	// maxLine bounds a line of text, and maxKept all lines of wanted metrics in bytes.
	maxLine = 64 << 10
	maxKept = 1 << 20
	// maxFamily bounds a metric of protobuf in bytes.
	maxFamily = 4 << 20
)

// An answer is what one scrape told of the metrics that are wanted.
type answer struct {
	wanted  wanted
	samples []sample
	started float64 // of the process, in seconds since 1970; 0: not told
}

// wanted are the metrics that are wanted, and the bounds of those that are buckets of histograms.
type wanted map[string][]float64

func (w wanted) has(metric string) bool {
	_, ok := w[metric]
	return ok
}

// hasLine tells whether a line of text is of a wanted metric; comments are not.
func (w wanted) hasLine(line []byte) bool {
	line = bytes.TrimLeft(line, " \t")
	if n := bytes.IndexAny(line, "{ \t\n"); n >= 0 {
		line = line[:n]
	}
	_, ok := w[string(line)]
	return ok
}

// A sample is one series. Buckets of histograms are series of their own, as in the text format.
type sample struct {
	metric string
	labels []*dto.LabelPair
	value  float64
}

func (s *sample) label(name string) string {
	for _, l := range s.labels {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

func (a *answer) add(metric string, labels []*dto.LabelPair, value float64) {
	if metric == startMetric {
		if len(labels) == 0 && value > 0 && !math.IsInf(value, 0) {
			a.started = value
		}
		return
	}
	a.samples = append(a.samples, sample{metric, labels, value})
}

// readText reads Prometheus' text format. Only lines of wanted metrics go to the parser, and none that gives a type: so every
// line is a series by itself. What is broken elsewhere does not matter.
func (a *answer) readText(body io.Reader) error {
	var kept bytes.Buffer
	lines := bufio.NewReaderSize(body, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		wanted := a.wanted.hasLine(line)
		switch {
		case errors.Is(err, bufio.ErrBufferFull) && !wanted:
			if err := skipLine(lines); err != nil {
				return err
			}
			continue
		case errors.Is(err, bufio.ErrBufferFull):
			return failed(protocol, "a line has more than %d bytes", maxLine)
		case errors.Is(err, io.EOF) && len(line) > 0: // a number that is cut short is another number
			return failed(protocol, "the answer ends amid a line: %.60q", line)
		case errors.Is(err, io.EOF):
			return a.parse(&kept)
		case err != nil:
			return err //nolint:wrapcheck // the caller classifies it
		}
		if wanted {
			if kept.Write(line); kept.Len() > maxKept {
				return failed(tooLarge, "the wanted metrics have more than %d KiB", maxKept>>10)
			}
		}
	}
}

// skipLine reads to the end of a line.
func skipLine(lines *bufio.Reader) error {
	for {
		if _, err := lines.ReadSlice('\n'); !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				return failed(protocol, "the answer ends amid a line")
			}
			return err //nolint:wrapcheck // the caller classifies it
		}
	}
}

// parse gives the kept lines to Prometheus' parser.
func (a *answer) parse(kept io.Reader) error {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(kept)
	if err != nil {
		return failed(protocol, "broken text: %w", err)
	}
	for name, f := range families {
		for _, m := range f.GetMetric() {
			a.add(name, m.GetLabel(), m.GetUntyped().GetValue())
		}
	}
	return nil
}

// readProto reads Prometheus' protobuf format, metric by metric.
func (a *answer) readProto(body io.Reader) error {
	from := bufio.NewReaderSize(body, maxLine)
	options := protodelim.UnmarshalOptions{MaxSize: maxFamily}
	for {
		f := &dto.MetricFamily{}
		err := options.UnmarshalFrom(from, f)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if _, ok := errors.AsType[*protodelim.SizeTooLargeError](err); ok {
			return failed(tooLarge, "a metric has more than %d MiB", maxFamily>>20)
		}
		if err != nil {
			return failed(protocol, "broken protobuf: %w", err)
		}
		for _, m := range f.GetMetric() {
			a.addTyped(f.GetName(), f.GetType(), m)
		}
	}
}

// addTyped adds the wanted series of a metric.
func (a *answer) addTyped(name string, kind dto.MetricType, m *dto.Metric) {
	switch {
	case kind == dto.MetricType_HISTOGRAM || kind == dto.MetricType_GAUGE_HISTOGRAM:
		a.addHistogram(name, m.GetLabel(), m.GetHistogram())
	case kind == dto.MetricType_SUMMARY:
		if a.wanted.has(name + "_count") {
			a.add(name+"_count", m.GetLabel(), float64(m.GetSummary().GetSampleCount()))
		}
	case !a.wanted.has(name):
	case kind == dto.MetricType_COUNTER:
		a.add(name, m.GetLabel(), m.GetCounter().GetValue())
	case kind == dto.MetricType_GAUGE:
		a.add(name, m.GetLabel(), m.GetGauge().GetValue())
	default:
		a.add(name, m.GetLabel(), m.GetUntyped().GetValue())
	}
}

// addHistogram adds a histogram as the text format has it. One that is native alone has the buckets next to the bounds that
// are wanted.
func (a *answer) addHistogram(name string, labels []*dto.LabelPair, h *dto.Histogram) {
	total := max(float64(h.GetSampleCount()), h.GetSampleCountFloat())
	if a.wanted.has(name + "_count") {
		a.add(name+"_count", labels, total)
	}
	name += "_bucket"
	if !a.wanted.has(name) {
		return
	}
	bucket := func(bound, count float64) {
		le := slo.BucketLabel
		text := strconv.FormatFloat(bound, 'g', -1, 64)
		a.add(name, append(slices.Clip(labels), &dto.LabelPair{Name: &le, Value: &text}), count)
	}
	for _, b := range h.GetBucket() {
		if !math.IsInf(b.GetUpperBound(), 1) {
			bucket(b.GetUpperBound(), max(float64(b.GetCumulativeCount()), b.GetCumulativeCountFloat()))
		}
	}
	if len(h.GetBucket()) == 0 && h.Schema != nil {
		addNative(h, a.wanted[name], bucket)
	}
	bucket(math.Inf(1), total)
}

// addNative calls bucket with the bounds of a native histogram next to those that are wanted, below and above, and how many
// values are not greater. The bound of the number n is 2^(n*2^-schema).
func addNative(h *dto.Histogram, bounds []float64, bucket func(bound, count float64)) {
	schema := int(h.GetSchema())
	if schema < -4 || schema > 8 || len(h.GetNegativeSpan()) > 0 {
		return // custom bounds come as classic buckets; durations are not negative
	}
	seen := map[float64]bool{}
	for _, wanted := range bounds {
		if !(wanted > h.GetZeroThreshold()) || math.IsInf(wanted, 1) {
			continue
		}
		const rounding = 1e-9
		exact := math.Ldexp(math.Log2(wanted), schema)
		for _, n := range [...]float64{math.Floor(exact + rounding), math.Ceil(exact - rounding)} {
			if bound := math.Exp2(math.Ldexp(n, -schema)); !seen[bound] {
				seen[bound] = true
				bucket(bound, countUpTo(h, int(n)))
			}
		}
	}
}

// countUpTo returns how many values of a native histogram are in the zero bucket and those up to a number.
func countUpTo(h *dto.Histogram, last int) float64 {
	sum := max(float64(h.GetZeroCount()), h.GetZeroCountFloat())
	number, next, own := 0, 0, 0.0
	for _, span := range h.GetPositiveSpan() {
		number += int(span.GetOffset())
		for range span.GetLength() {
			switch {
			case number > last:
				return sum
			case next < len(h.GetPositiveDelta()): // each is the difference from the one before
				own += float64(h.GetPositiveDelta()[next])
			case next < len(h.GetPositiveCount()):
				own = h.GetPositiveCount()[next]
			default:
				return sum // the spans promise more than there is
			}
			sum += own
			number, next = number+1, next+1
		}
	}
	return sum
}
