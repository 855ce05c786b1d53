package rules

import (
	"fmt"
	"io"
	"time"

	"github.com/slid-agent/slid/internal/slo"
)

// The parts of OpenSLO v1 that objectives need.
type (
	object struct {
		APIVersion string   `yaml:"apiVersion,omitempty"`
		Kind       string   `yaml:"kind,omitempty"`
		Metadata   metadata `yaml:"metadata"`
		Spec       any      `yaml:"spec"`
	}
	metadata struct {
		Name string `yaml:"name"`
	}
	sloSpec struct {
		Description     string      `yaml:"description,omitempty"`
		Service         string      `yaml:"service"`
		Indicator       *object     `yaml:"indicator,omitempty"`
		TimeWindow      []window    `yaml:"timeWindow"`
		BudgetingMethod string      `yaml:"budgetingMethod"`
		Objectives      []objective `yaml:"objectives"`
		AlertPolicies   []object    `yaml:"alertPolicies,omitempty"`
	}
	window struct {
		Duration  string    `yaml:"duration"`
		IsRolling bool      `yaml:"isRolling"`
		Calendar  *calendar `yaml:"calendar,omitempty"`
	}
	calendar struct {
		StartTime string `yaml:"startTime"`
		TimeZone  string `yaml:"timeZone"`
	}
	objective struct {
		Target          float64 `yaml:"target"`
		TimeSliceTarget float64 `yaml:"timeSliceTarget,omitempty"`
		TimeSliceWindow string  `yaml:"timeSliceWindow,omitempty"`
		Indicator       *object `yaml:"indicator,omitempty"`
		CompositeWeight float64 `yaml:"compositeWeight,omitempty"`
	}
	sliSpec struct {
		RatioMetric ratioMetric `yaml:"ratioMetric"`
	}
	ratioMetric struct {
		Counter bool  `yaml:"counter"`
		Good    *leaf `yaml:"good,omitempty"`
		Bad     *leaf `yaml:"bad,omitempty"`
		Total   leaf  `yaml:"total"`
	}
	leaf struct {
		MetricSource metricSource `yaml:"metricSource"`
	}
	metricSource struct {
		Type string  `yaml:"type"`
		Spec ownSpec `yaml:"spec"`
	}
	ownSpec struct {
		Source  string    `yaml:"source"`
		Select  selection `yaml:"select"`
		Metric  string    `yaml:"metric,omitempty"`
		Where   string    `yaml:"where,omitempty"`
		Exclude string    `yaml:"exclude,omitempty"`
	}
	selection struct {
		Service   string     `yaml:"service"`
		Route     string     `yaml:"route,omitempty"`
		Methods   []string   `yaml:"methods,omitempty,flow"`
		URL       string     `yaml:"url,omitempty"`
		Figure    slo.Figure `yaml:"figure,omitempty"`
		Unit      string     `yaml:"unit,omitempty"`
		Container string     `yaml:"container,omitempty"`
		Command   string     `yaml:"command,omitempty"`
		Mount     string     `yaml:"mount,omitempty"`
	}
	policySpec struct {
		AlertWhenBreaching  bool     `yaml:"alertWhenBreaching"`
		AlertWhenNoData     bool     `yaml:"alertWhenNoData"`
		Conditions          []object `yaml:"conditions"`
		NotificationTargets []object `yaml:"notificationTargets"`
	}
	conditionSpec struct {
		Severity  string        `yaml:"severity"`
		Condition burnCondition `yaml:"condition"`
	}
	burnCondition struct {
		Kind           string  `yaml:"kind"`
		Op             string  `yaml:"op"`
		Threshold      float64 `yaml:"threshold"`
		LookbackWindow string  `yaml:"lookbackWindow"`
		AlertAfter     string  `yaml:"alertAfter"`
	}
	targetSpec struct {
		Target string `yaml:"target"`
	}
)

// OpenSLO writes the objectives as OpenSLO v1 documents, one for each. Read again they are the same objectives: what was
// short becomes long, references become inline, and percentiles become the ratios they are counted as.
func OpenSLO(w io.Writer, objectives []slo.Objective) error {
	for i, o := range objectives {
		if i > 0 {
			if _, err := io.WriteString(w, "---\n"); err != nil {
				return err
			}
		}
		if err := encode(w, document(o)); err != nil {
			return err
		}
	}
	return nil
}

func document(o slo.Objective) object {
	s := sloSpec{
		Description: o.Description, Service: o.Service, BudgetingMethod: o.Method.String(),
		TimeWindow: []window{{Duration: o.Window.Span.String(), IsRolling: o.Window.Rolling()}},
	}
	if start := o.Window.Start; !start.IsZero() {
		s.TimeWindow[0].Calendar = &calendar{start.Format(time.DateTime), start.Location().String()}
	}
	for _, m := range o.Members {
		item := objective{Target: m.Target}
		if o.Method == slo.Timeslices {
			item.TimeSliceTarget = o.SliceTarget
		}
		if o.Method != slo.Occurrences {
			item.TimeSliceWindow = slo.Shorthand(o.Slice)
		}
		if o.Composite() {
			item.Indicator, item.CompositeWeight = indicator(m.Indicator), m.Weight
		} else {
			s.Indicator = indicator(m.Indicator)
		}
		s.Objectives = append(s.Objectives, item)
	}
	for _, a := range o.Alerts {
		s.AlertPolicies = append(s.AlertPolicies, policy(a))
	}
	return object{APIVersion: "openslo/v1", Kind: "SLO", Metadata: metadata{o.Name}, Spec: s}
}

// indicator writes an indicator. Events that are known by the bad ones stay so.
func indicator(i slo.Indicator) *object {
	good, total := parts(i)
	good.Source, total.Source = i.Source(), i.Source()
	part := &leaf{metricSource{"slid", good}}
	ratio := ratioMetric{Counter: true, Total: leaf{metricSource{"slid", total}}}
	if i.Scrape != nil && i.Scrape.Good.Metric == "" {
		ratio.Bad = part
	} else {
		ratio.Good = part
	}
	return &object{Metadata: metadata{i.Name}, Spec: sliSpec{ratio}}
}

// parts writes what an indicator counts of a part of the events, mostly the good ones, and of all.
func parts(i slo.Indicator) (good, total ownSpec) {
	of := selection{Service: i.Select.Service}
	switch i.Source() {
	case slo.ScrapeSource:
		of.URL = i.Scrape.URL
		part, _ := i.Scrape.Part()
		good.Metric, total.Metric = part.String(), i.Scrape.Total.String()
	case slo.UnitSource:
		of.Unit, of.Container, of.Command = i.Unit.Unit, i.Unit.Container, i.Unit.Command
		good.Where = "active"
	case slo.ResourceSource:
		of.Figure, of.Unit, of.Mount = i.Resource.Figure, i.Resource.Unit, i.Resource.Mount
		good.Where = i.Resource.Bound.String()
	default:
		of.Route = i.Select.Route
		if i.Select.Methods != slo.AllMethods {
			of.Methods = i.Select.Methods.Names()
		}
		good.Where, total.Exclude = i.Good.String(), i.Exclude.String()
	}
	good.Select, total.Select = of, of
	return good, total
}

// policy writes an alert. Whom it notifies is decided by its severity, where the alerts arrive.
func policy(a slo.Alert) object {
	condition := conditionSpec{Severity: a.Severity, Condition: burnCondition{
		Kind: "burnrate", Op: string(a.Op), Threshold: a.Threshold, LookbackWindow: slo.Shorthand(a.Long),
		AlertAfter: fmt.Sprintf("%dm", int(a.After.Minutes())),
	}}
	return object{Kind: "AlertPolicy", Metadata: metadata{a.Name}, Spec: policySpec{
		AlertWhenBreaching: a.OnBurn, AlertWhenNoData: a.OnNoData,
		Conditions: []object{{Kind: "AlertCondition", Metadata: metadata{"burn"}, Spec: condition}},
		NotificationTargets: []object{
			{Kind: "AlertNotificationTarget", Metadata: metadata{"by-severity"}, Spec: targetSpec{a.Severity}},
		},
	}}
}
