// Package slo holds what a service level objective is and the arithmetic of its error budget: conditions that tell
// good events from bad ones, windows, histories of counts, burn rates, alerts and states.
//
// Everything works on counts of events and never on ratios: counts add up over time and hosts, means of ratios err by a
// factor of two when an outage falls into a quiet night (docs/slo.md has the figures). What was not measured is kept
// apart from what was measured and good. The functions are pure but for Save and Load, which keep histories in a file.
//
// The notation of the comments: T is the target, beta = 1-T the share of events that may be bad, P the period of the
// objective, w a window inside it, G, B and N the good, bad and all events there. Sources: Google's SRE Workbook,
// chapter 5 (alerts), and the OpenSLO v1 specification (budgeting methods, composites).
package slo
