package config

import (
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/slid-agent/slid/internal/slo"
)

// policySpec is the spec of an AlertPolicy.
type policySpec struct {
	onBurn, onNoData bool
	condition        *object // inline
	conditionRef     reference
	targets          []reference // of notifications
}

// A policyUse is an item of an SLO's alertPolicies.
type policyUse struct {
	policy *object // inline
	ref    reference
}

// conditionSpec is the spec of an AlertCondition.
type conditionSpec struct {
	severity  string
	op        slo.Op
	threshold float64
	lookback  time.Duration
	after     time.Duration
}

// either decodes an item that is an object inline or a reference to one.
func (d *decoder) either(v value, key, kind string) (inline *object, ref reference) {
	if child(v.node, "metadata") != nil || child(v.node, "spec") != nil {
		return d.object(v, kind), reference{}
	}
	d.mapping(v, []field{{key, "name-of-it", func(v value) { ref = d.reference(v) }}})
	return nil, ref
}

func (d *decoder) policyUse(v value) policyUse {
	var u policyUse
	u.policy, u.ref = d.either(v, "alertPolicyRef", "AlertPolicy")
	return u
}

func (d *decoder) policySpec(v value, description field) policySpec {
	var p policySpec
	var resolved bool
	seen := d.mapping(v, []field{
		description,
		{"alertWhenBreaching", "true", func(v value) { d.truth(v, &p.onBurn) }},
		{"alertWhenResolved", "true", func(v value) { d.truth(v, &resolved) }},
		{"alertWhenNoData", "true", func(v value) { d.truth(v, &p.onNoData) }},
		{"conditions", "[{conditionRef: fast-burn}]", func(v value) {
			n := 0
			d.list(v, func(v value) {
				if n++; n == 1 {
					p.condition, p.conditionRef = d.either(v, "conditionRef", "AlertCondition")
				}
			})
			if v.node.Kind == yaml.SequenceNode && n != 1 {
				d.wrong(v, fmt.Sprintf("has %d conditions", n), "a policy has exactly one; write another policy for another condition")
			}
		}},
		{"notificationTargets", "[{targetRef: on-call}]", func(v value) {
			n := 0
			d.list(v, func(v value) {
				n++
				if _, ref := d.either(v, "targetRef", "AlertNotificationTarget"); ref.name != "" {
					p.targets = append(p.targets, ref)
				}
			})
			if v.node.Kind == yaml.SequenceNode && n == 0 {
				d.wrong(v, "has no target", "write it like this: "+v.example)
			}
		}},
	})
	d.require(v, seen, "conditions", "add e.g. conditions: [{conditionRef: fast-burn}]")
	d.require(v, seen, "notificationTargets", "add e.g. notificationTargets: [{targetRef: on-call}]")
	if seen != nil && !p.onBurn && !p.onNoData {
		d.warn(v, "the policy never alerts", "add alertWhenBreaching: true")
	}
	return p
}

func (d *decoder) conditionSpec(v value, description field) conditionSpec {
	c := conditionSpec{op: slo.GTE}
	seen := d.mapping(v, []field{
		description,
		{"severity", "page", func(v value) { c.severity, _ = d.text(v) }},
		{"condition", "{kind: burnrate, threshold: 14.4, lookbackWindow: 1h}", func(v value) { d.burnCondition(v, &c) }},
	})
	d.require(v, seen, "severity", "add e.g. severity: page")
	d.require(v, seen, "condition", "add condition:")
	return c
}

func (d *decoder) burnCondition(v value, c *conditionSpec) {
	seen := d.mapping(v, []field{
		{"kind", "burnrate", func(v value) { d.oneOf(v, "burnrate") }},
		{"op", "gte", func(v value) {
			c.op = slo.Op(d.oneOf(v, slo.Ops()...))
			if c.op == slo.LT || c.op == slo.LTE {
				d.warn(v, string(c.op)+" alerts as long as the budget does not burn",
					"write gte for a burn rate that reaches the threshold")
			}
		}},
		{"threshold", "14.4", func(v value) {
			if f, ok := d.number(v); ok && f <= 0 {
				d.wrong(v, "a burn rate of "+show(v.node.Value)+" is none",
					"use a number above 0; 1 uses up the budget in exactly the window")
			} else {
				c.threshold = f
			}
		}},
		{"lookbackWindow", "1h", func(v value) { d.lookback(v, &c.lookback) }},
		{"alertAfter", "5m", func(v value) {
			var after slo.Span
			if v.node.Value != "0m" && d.span(v, &after) {
				c.after = after.Duration()
			}
		}},
	})
	d.require(v, seen, "threshold", "add e.g. threshold: 14.4")
	d.require(v, seen, "lookbackWindow", "add e.g. lookbackWindow: 1h")
}

// shortest is the shortest window of an alert: below, single ticks decide.
const shortest = 5 * time.Minute

func (d *decoder) lookback(v value, into *time.Duration) {
	var span slo.Span
	if !d.span(v, &span) {
		return
	}
	if span.Duration() < shortest {
		d.wrong(v, span.String()+" is too short to judge a burn rate", "use 5m or more")
		return
	}
	*into = span.Duration()
}

// warn notes what is allowed and probably a mistake.
func (d *decoder) warn(v value, what, remedy string) {
	d.warnings = append(d.warnings, d.problem(v.node, v.path, what, remedy))
}

// alert returns the alert of a policy, or nothing if a part of it is missing.
//
// OpenSLO v1 has one window for each condition. As the SRE Workbook does, a second one, a twelfth as long, must agree: it
// ends the alert soon after the burning ends.
func (b *builder) alert(o *object) (a slo.Alert, ok bool) {
	for _, ref := range o.policy.targets {
		b.set.find(o.d, ref, "AlertNotificationTarget")
	}
	condition := o.policy.condition
	if condition == nil && o.policy.conditionRef.name != "" {
		condition = b.set.find(o.d, o.policy.conditionRef, "AlertCondition")
	}
	if condition == nil || condition.broken || o.broken {
		return slo.Alert{}, false
	}
	c := condition.condition
	const twelfth = 12
	return slo.Alert{
		Name: o.name, Severity: c.severity, Threshold: c.threshold, Op: c.op,
		Long: c.lookback, Short: min(c.lookback, max(c.lookback/twelfth, shortest)).Round(time.Minute), After: c.after,
		OnBurn: o.policy.onBurn, OnNoData: o.policy.onNoData,
	}, true
}
