package metric

import (
	"slices"

	"go.opentelemetry.io/otel/attribute"
)

// SchemaURL is the version of OpenTelemetry's semantic conventions that metrics are declared with.
const SchemaURL = "https://opentelemetry.io/schemas/1.44.0"

// Names says how a destination calls the host's metrics (config key export.names). What the map does not know, and
// the agent's own metrics, keep the names they are declared with.
type Names string

// The maps of names. The zero value is Semconv.
const (
	// Semconv is how metrics are declared: OpenTelemetry's semantic conventions.
	Semconv Names = "semconv"
	// OTelColLegacy is how the hostmetrics receiver of the OpenTelemetry Collector v0.165 calls them by default.
	OTelColLegacy Names = "otelcol-legacy"
	// Prometheus is how Prometheus's node_exporter calls them.
	Prometheus Names = "prometheus"
)

// AllNames returns all maps of names, the default first.
func AllNames() []Names { return []Names{Semconv, OTelColLegacy, Prometheus} }

// Renames returns the rows of the map. Semconv has none. For a series the first row that fits counts.
func (n Names) Renames() []Rename {
	switch n {
	case OTelColLegacy:
		return legacyNames()
	case Prometheus:
		return prometheusNames()
	}
	return nil
}

// A Rename is a row in a map of names: which series of a metric get which name. Their numbers stay as they are: a
// series without an exact counterpart has no row, or one that says in Differs what its number has or lacks.
type Rename struct {
	Metric string // as declared
	// Where are attributes that a series must have for the row to fit. They are left out then: the name says it.
	Where Pairs
	Name  string // as sent
	Unit  string // as sent; "" if it stays
	// Keys are attribute keys as declared and as sent, "" for those left out; others stay. The row fits only series
	// that have them all.
	Keys Pairs
	// Values are values as declared and as sent, by the key as declared. The row fits only series whose value is here.
	Values Values
	Prefix Pairs // what is put before values, by the key as declared

	Differs string // how the number differs from that of the namesake, for the documentation; mostly ""
}

// Pairs are texts by other texts.
type Pairs map[string]string

// Values are values by values, by the declared key of the attribute.
type Values map[attribute.Key]Pairs

// attributes returns the attributes of a series as the row wants them; false says that the row does not fit.
func (r *Rename) attributes(set attribute.Set) (attribute.Set, bool) {
	for key, want := range r.Where {
		if v, ok := set.Value(attribute.Key(key)); !ok || v.String() != want {
			return set, false
		}
	}
	for key := range r.Keys {
		if !set.HasValue(attribute.Key(key)) {
			return set, false
		}
	}
	sent := make([]attribute.KeyValue, 0, set.Len())
	for _, kv := range set.ToSlice() {
		key := string(kv.Key)
		if _, said := r.Where[key]; said {
			continue
		}
		if values, ok := r.Values[kv.Key]; ok {
			value, known := values[kv.Value.String()]
			if !known {
				return set, false
			}
			kv.Value = attribute.StringValue(value)
		}
		if prefix, ok := r.Prefix[key]; ok {
			kv.Value = attribute.StringValue(prefix + kv.Value.String())
		}
		if renamed, ok := r.Keys[key]; ok {
			kv.Key = attribute.Key(renamed)
		}
		if kv.Key != "" {
			sent = append(sent, kv)
		}
	}
	return attribute.NewSet(sent...), true
}

// nameTable is a map of names arranged for looking up. A nil one renames nothing.
type nameTable struct{ rows map[string][]Rename }

func (n Names) table() *nameTable {
	renames := n.Renames()
	if len(renames) == 0 {
		return nil
	}
	t := &nameTable{rows: make(map[string][]Rename, len(renames))}
	for _, r := range renames {
		t.rows[r.Metric] = append(t.rows[r.Metric], r)
	}
	return t
}

// add gives the series of a family their names and adds them to what is sent.
func (t *nameTable) add(sent *outgoing, f *family, list []series) {
	if len(list) == 0 {
		return
	}
	if t == nil {
		m := sent.metric(f.desc.Name, f.desc.Unit, f, list[0])
		m.series = append(m.series, list...)
		return
	}
	var rows []Rename
	if f.group.class != ClassAgent {
		rows = t.rows[f.desc.Name]
	}
	for _, s := range list {
		name, unit, attrs := f.desc.Name, f.desc.Unit, s.base().attrs
		for i := range rows {
			if renamed, ok := rows[i].attributes(attrs); ok {
				name, attrs = rows[i].Name, renamed
				if rows[i].Unit != "" {
					unit = rows[i].Unit
				}
				break
			}
		}
		m := sent.metric(name, unit, f, s)
		m.series, m.attrs = append(m.series, s), append(m.attrs, attrs)
	}
}

// outgoing is what is sent of one resource: the metrics in the order of their first series.
type outgoing struct{ list []*sentMetric }

// sentMetric is a metric under the name that a destination gets. Its series may come from several families: those that
// a map gives one name, and those that several collectors declare alike.
type sentMetric struct {
	name, unit string
	first      *family // the first of the families
	series     []series
	attrs      []attribute.Set // of each series; nil: their own
}

func (m *sentMetric) attributes(i int) attribute.Set {
	if m.attrs == nil {
		return m.series[i].base().attrs
	}
	return m.attrs[i]
}

// metric returns the metric of a name that can take the series s of f: all of a metric are of one kind and one type.
// A family mostly follows on itself, so the search begins at the end.
func (o *outgoing) metric(name, unit string, f *family, s series) *sentMetric {
	for _, m := range slices.Backward(o.list) {
		if m.name == name && m.unit == unit && m.first.desc.Kind == f.desc.Kind && sameType(m.series[0], s) {
			return m
		}
	}
	m := &sentMetric{name: name, unit: unit, first: f}
	o.list = append(o.list, m)
	return m
}

func sameType(a, b series) bool {
	switch a.(type) {
	case *Int:
		_, ok := b.(*Int)
		return ok
	case *Float:
		_, ok := b.(*Float)
		return ok
	}
	_, ok := b.(*Hist)
	return ok
}
