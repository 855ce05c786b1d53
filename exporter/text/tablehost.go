package text

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

const (
	nameWidth = 9 // of the names of facts
	barWidth  = 18
	gaugeHead = 2 + nameWidth + barWidth + 1 + 6 + 2 // columns before a gauge's text
	maxRows   = 5                                    // disks and interfaces shown; JSON has all
)

// host writes the state of the host.
func (p *page) host(s *System) {
	if s == nil {
		return
	}
	p.title("HOST")
	if s.CPUUtilization != nil {
		p.gauge("cpu", *s.CPUUtilization, modes(s.CPUModes, p.layout.width-gaugeHead))
	}
	if m := s.Memory; m != nil {
		p.memory(m)
	}
	p.fact("load", loads(s.Load))
	p.fact("pressure", pressures(s.Pressure))
	p.disks(s.Disks)
	p.networks(s.Networks)
}

// fact writes a named text of the host section, if there is anything to say.
func (p *page) fact(name, text string) {
	if text != "" {
		p.paragraph(plain, "  "+pad(name, nameWidth, false), text)
	}
}

// gauge writes a share as a bar, a number and a text.
func (p *page) gauge(name string, share float64, text string) {
	s := green
	switch {
	case share >= 0.9:
		s = red
	case share >= 0.7:
		s = yellow
	}
	full, rest := bar(share, barWidth)
	p.put(plain, "  "+pad(name, nameWidth, false))
	p.put(s, full)
	p.put(dim, rest)
	p.line(plain, " "+pad(FormatShare(share), 6, true)+"  "+text)
}

func (p *page) memory(m *Memory) {
	if m.Used == nil || m.Limit == nil || *m.Limit <= 0 {
		return
	}
	text := FormatBytes(float64(*m.Used)) + " of " + FormatBytes(float64(*m.Limit))
	if m.Available != nil {
		text += ", available " + FormatBytes(float64(*m.Available))
	}
	p.gauge("memory", float64(*m.Used)/float64(*m.Limit), text)
}

// bar draws a share in eighths of a column.
func bar(share float64, columns int) (full, rest string) {
	eighths := int(math.Round(min(max(share, 0), 1) * float64(columns*8)))
	full = strings.Repeat("█", eighths/8)
	if part := eighths % 8; part > 0 {
		full += string([]rune(" ▏▎▍▌▋▊▉")[part])
	}
	return full, strings.Repeat("░", columns-width(full))
}

// sparkline draws the counts side by side, the highest as a full block. What is not 0 does not look so.
func sparkline(list []Bucket) string {
	var most int64
	for _, b := range list {
		most = max(most, b.Count)
	}
	levels := []rune(" ▁▂▃▄▅▆▇█")
	line := make([]rune, 0, len(list))
	for _, b := range list {
		line = append(line, levels[int(math.Ceil(8*float64(b.Count)/float64(most)))])
	}
	return string(line)
}

// modes returns what the processors did, the most first, as far as it fits into n columns, without idleness and what
// rounds to nothing.
func modes(shares map[string]float64, n int) string {
	names := slices.SortedFunc(maps.Keys(shares), func(a, b string) int {
		return cmp.Or(cmp.Compare(shares[b], shares[a]), cmp.Compare(a, b))
	})
	list := ""
	for _, name := range names {
		part := name + " " + FormatShare(shares[name])
		if name == "idle" || shares[name] < 0.0005 || len(list)+2+len(part) > n {
			continue
		}
		if list != "" {
			list += ", "
		}
		list += part
	}
	return list
}

func loads(list map[string]float64) string {
	var parts []string
	for _, span := range []string{"1m", "5m", "15m"} {
		if v, ok := list[span]; ok {
			parts = append(parts, strconv.FormatFloat(v, 'f', 2, 64)+" ("+span+")")
		}
	}
	return strings.Join(parts, ", ")
}

// pressures returns the share of the time in which some task waited and, if it was so, that in which all did.
func pressures(list map[string]Pressure) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(list)) {
		some, full := list[name].Some, list[name].Full
		switch {
		case some != nil && valueOr(full, 0) > 0:
			parts = append(parts, name+" "+FormatShare(*some)+" (all tasks "+FormatShare(*full)+")")
		case some != nil:
			parts = append(parts, name+" "+FormatShare(*some))
		case full != nil:
			parts = append(parts, name+" (all tasks "+FormatShare(*full)+")")
		}
	}
	return strings.Join(parts, ", ")
}

func (p *page) disks(list []Disk) {
	g := grid{titles: []string{"", "DISKS", "READ", "WRITE", "OPS/S", "BUSY", "AWAIT"}}
	idle := 0
	for _, d := range list {
		if valueOr(d.Operations, 1) == 0 && valueOr(d.Utilization, 0) == 0 {
			idle++
			continue
		}
		g.add(d.Device, optional(d.Read, perSecond), optional(d.Written, perSecond), optional(d.Operations, FormatCount),
			optional(d.Utilization, FormatShare), optional(d.Await, FormatDuration))
	}
	p.busy(g, idle)
}

func (p *page) networks(list []Network) {
	g := grid{titles: []string{"", "NETWORKS", "IN", "OUT", "PKT/S IN", "OUT", "ERRORS", "DROPPED"}}
	idle := 0
	for _, n := range list {
		if valueOr(n.Received, 1) == 0 && valueOr(n.Sent, 1) == 0 {
			idle++
			continue
		}
		g.add(n.Interface, optional(n.Received, perSecond), optional(n.Sent, perSecond),
			optional(n.ReceivedPkt, FormatCount), optional(n.SentPkt, FormatCount), whole(n.Errors), whole(n.Dropped))
	}
	p.busy(g, idle)
}

// busy writes the first rows of a grid and says how many more there are.
func (p *page) busy(g grid, idle int) {
	if len(g.rows)+idle == 0 {
		return
	}
	more := max(len(g.rows)-maxRows, 0)
	g.rows = g.rows[:len(g.rows)-more]
	p.grid(g)
	var parts []string
	if more > 0 {
		parts = append(parts, strconv.Itoa(more)+" more")
	}
	if idle > 0 {
		parts = append(parts, strconv.Itoa(idle)+" idle")
	}
	if len(parts) > 0 {
		p.line(dim, "  "+strings.Join(parts, ", "))
	}
}

func perSecond(v float64) string { return FormatBytes(v) + "/s" }

func whole(n *int64) string {
	if n == nil {
		return none
	}
	return strconv.FormatInt(*n, 10)
}
