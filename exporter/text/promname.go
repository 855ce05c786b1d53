package text

import (
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
)

// promUnits are the words for UCUM units.
var promUnits = map[string]string{
	"d": "days", "h": "hours", "min": "minutes", "s": "seconds", "ms": "milliseconds", "us": "microseconds",
	"ns": "nanoseconds", "By": "bytes", "KiBy": "kibibytes", "MiBy": "mebibytes", "GiBy": "gibibytes",
	"TiBy": "tebibytes", "KBy": "kilobytes", "MBy": "megabytes", "GBy": "gigabytes", "TBy": "terabytes",
	"m": "meters", "V": "volts", "A": "amperes", "J": "joules", "W": "watts", "g": "grams",
	"Cel": "celsius", "Hz": "hertz", "%": "percent",
}

// perUnits are the words for units behind a slash.
var perUnits = map[string]string{"s": "second", "min": "minute", "h": "hour", "d": "day", "By": "byte", "m": "meter"}

// promUnit returns the unit's word for the end of a name: "seconds" for s, "bytes_per_second" for By/s, "ratio" for
// the 1 of a gauge, "" for counts of things.
func promUnit(unit string, gauge bool) string {
	if unit == "1" {
		if gauge {
			return "ratio"
		}
		return ""
	}
	top, per, divided := strings.Cut(withoutBraces(unit), "/")
	word := unitWord(top, promUnits)
	if !divided || unitWord(per, perUnits) == "" {
		return word
	}
	return strings.TrimPrefix(word+"_per_"+unitWord(per, perUnits), "_")
}

// withoutBraces removes annotations: {request} counts requests and is no unit.
func withoutBraces(unit string) string {
	for {
		open := strings.IndexByte(unit, '{')
		if open < 0 {
			return unit
		}
		length := strings.IndexByte(unit[open:], '}')
		if length < 0 {
			return unit[:open]
		}
		unit = unit[:open] + unit[open+length+1:]
	}
}

func unitWord(unit string, words map[string]string) string {
	unit = strings.TrimSpace(unit)
	if word, ok := words[unit]; ok {
		return word
	}
	return strings.Trim(underscored(unit), "_")
}

// promName returns the name of a metric with its unit at the end.
func promName(name, unit string) string {
	name = strings.Trim(underscored(name), "_")
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		name = "_" + name
	}
	if unit != "" && !strings.HasSuffix(name, "_"+unit) {
		name += "_" + unit
	}
	return name
}

// underscored puts one underscore for each run of characters that names may not have.
func underscored(name string) string {
	var b strings.Builder
	under := false
	for _, r := range name {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		switch {
		case ok:
			b.WriteRune(r)
		case !under:
			b.WriteByte('_')
		}
		under = !ok
	}
	return b.String()
}

// labelsOf returns attributes as a label list without braces. Attributes whose names become the same label have
// their values joined by semicolons, in the order of their names.
func labelsOf(attrs attribute.Set) string {
	names := make([]string, 0, attrs.Len())
	values := make(map[string]string, attrs.Len())
	for _, kv := range attrs.ToSlice() { // sorted by key
		name, value := labelName(string(kv.Key)), kv.Value.String()
		if before, double := values[name]; double {
			values[name] = before + ";" + value
			continue
		}
		names = append(names, name)
		values[name] = value
	}
	slices.Sort(names)
	var b strings.Builder
	for i, name := range names {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(pair(name, values[name]))
	}
	return b.String()
}

// labelName returns the label for an attribute. Labels with a meaning of their own get the prefix that Prometheus
// gives them when it scrapes.
func labelName(key string) string {
	name := underscored(key)
	if name == "job" || name == "instance" || name == "le" {
		return "exported_" + name
	}
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		return "key_" + name
	}
	return name
}

func pair(name, value string) string { return name + `="` + escape(value) + `"` }

// join joins two label lists.
func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "," + b
}

// escape escapes text for quotes and for HELP lines.
func escape(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	return escaper.Replace(s)
}

var escaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
