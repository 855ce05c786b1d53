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
		Counter bool `yaml:"counter"`
		Good    leaf `yaml:"good"`
		Total   leaf `yaml:"total"`
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
		Where   string    `yaml:"where,omitempty"`
		Exclude string    `yaml:"exclude,omitempty"`
	}
	selection struct {
		Service string   `yaml:"service"`
		Route   string   `yaml:"route,omitempty"`
		Methods []string `yaml:"methods,omitempty,flow"`
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

func indicator(i slo.Indicator) *object {
	own := ownSpec{Source: "traffic", Select: selection{Service: i.Select.Service, Route: i.Select.Route}}
	if i.Select.Methods != slo.AllMethods {
		own.Select.Methods = i.Select.Methods.Names()
	}
	good, total := own, own
	good.Where, total.Exclude = i.Good.String(), i.Exclude.String()
	return &object{Metadata: metadata{i.Name}, Spec: sliSpec{ratioMetric{
		Counter: true, Good: leaf{metricSource{"slid", good}}, Total: leaf{metricSource{"slid", total}},
	}}}
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
