package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A report is what is used of the JSON of slid doctor.
type report struct {
	Sources []source `json:"sources"`
}

type source struct {
	Name    string `json:"name"`
	State   string `json:"state"`
	Hook    string `json:"hook"`
	Reason  string `json:"reason"`
	Missing string `json:"missing"`
	Off     bool   `json:"off"`
}

// A kernel is a column of the table.
type kernel struct {
	series string // e.g. 6.1
	report report
}

// The marks between which the table stands.
const (
	tableBegin = "<!-- kernels: written by UPDATE=1 make test-vm -->\n"
	tableEnd   = "<!-- end of kernels -->\n"
)

// table returns the table of all probes, with a footnote for each different reason.
func table(kernels []kernel) string {
	var b strings.Builder
	var notes []string
	b.WriteString("| probe |")
	for _, k := range kernels {
		b.WriteString(" Linux " + k.series + " |")
	}
	b.WriteString("\n|---" + strings.Repeat("|---", len(kernels)) + "|\n")
	for _, name := range probes(kernels) {
		fmt.Fprintf(&b, "| `%s` |", strings.TrimPrefix(name, "latency/"))
		for _, k := range kernels {
			b.WriteString(" " + cell(k.report.find(name), &notes) + " |")
		}
		b.WriteString("\n")
	}
	for i, n := range notes {
		fmt.Fprintf(&b, "\n%d. %s", i+1, n)
	}
	if notes != nil {
		b.WriteString("\n")
	}
	return b.String()
}

// probes returns the names of all kernel probes, in order.
func probes(kernels []kernel) []string {
	var list []string
	for _, k := range kernels {
		for _, s := range k.report.Sources {
			probe := strings.HasPrefix(s.Name, "latency/") || s.Name == "service/traffic"
			if probe && !slices.Contains(list, s.Name) {
				list = append(list, s.Name)
			}
		}
	}
	slices.Sort(list)
	return list
}

func (r report) find(name string) source {
	for _, s := range r.Sources {
		if s.Name == name {
			return s
		}
	}
	return source{State: "not there"}
}

// cell says how a probe fares and by which hook, and refers to a note that says why.
func cell(s source, notes *[]string) string {
	text := s.State
	if s.Hook != "" && s.State != "unavailable" {
		text += ": " + strings.ReplaceAll(s.Hook, "|", "\\|")
	}
	note := s.Reason
	if s.Missing != "" {
		note += " (needs " + s.Missing + ")"
	}
	if note == "" {
		return text
	}
	i := slices.Index(*notes, note)
	if i < 0 {
		i = len(*notes)
		*notes = append(*notes, note)
	}
	return fmt.Sprintf("%s [%d]", text, i+1)
}

// replaceTable puts a table between the marks of a page.
func replaceTable(page, table string) (string, error) {
	before, rest, ok := strings.Cut(page, tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		return "", errors.New("the marks of the table are missing")
	}
	return before + tableBegin + "\n" + table + "\n" + tableEnd + after, nil
}
