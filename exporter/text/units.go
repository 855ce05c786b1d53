package text

import (
	"math"
	"strconv"
)

// round returns v with six significant digits: more than any measurement here has, and short in JSON.
func round(v float64) float64 {
	if v == 0 || !finite(v) {
		return v
	}
	var buf [32]byte
	r, err := strconv.ParseFloat(string(strconv.AppendFloat(buf[:0], v, 'g', 6, 64)), 64)
	if err != nil {
		return v
	}
	return r
}

// scaled is a unit and its size in the base unit.
type scaled struct {
	size float64
	name string
}

var (
	timeUnits  = []scaled{{1e-9, " ns"}, {1e-6, " µs"}, {1e-3, " ms"}, {1, " s"}}
	byteUnits  = []scaled{{1, " B"}, {1 << 10, " KiB"}, {1 << 20, " MiB"}, {1 << 30, " GiB"}, {1 << 40, " TiB"}, {1 << 50, " PiB"}}
	countUnits = []scaled{{1, ""}, {1e3, "k"}, {1e6, "M"}, {1e9, "G"}, {1e12, "T"}}
)

// FormatDuration returns seconds with three digits in the fitting unit: "11.3 ms". 0 is "0 s".
func FormatDuration(seconds float64) string {
	if seconds == 0 {
		return "0 s"
	}
	return inUnit(seconds, timeUnits)
}

// FormatBytes returns bytes with three digits in the fitting binary unit: "3.42 MiB".
func FormatBytes(n float64) string { return inUnit(n, byteUnits) }

// FormatCount returns a count or a rate with three digits: "74.4k".
func FormatCount(n float64) string { return inUnit(n, countUnits) }

// FormatShare returns a share of 1 as a percentage with three digits at most: "1.25%". What is not wholly 0 or 1
// does not read so.
func FormatShare(v float64) string {
	if v > 0 && v < 0.0001 {
		return "<0.01%"
	}
	if v > 0.9999 && v < 1 {
		return ">99.99%"
	}
	if v > 0.999 && v < 1 {
		return strconv.FormatFloat(math.Floor(v*10000)/100, 'f', 2, 64) + "%"
	}
	return digits(v*100) + "%"
}

// inUnit writes v in the largest unit that leaves at least 1 before the point.
func inUnit(v float64, units []scaled) string {
	u := units[0]
	for _, next := range units[1:] {
		// 999.5 would be rounded to the 1000 of the smaller unit.
		if math.Abs(v)/u.size >= 999.5 || math.Abs(v) >= next.size {
			u = next
		}
	}
	return digits(v/u.size) + u.name
}

// digits writes v with three significant digits, or with all before the point, without needless zeros for whole
// numbers.
func digits(v float64) string {
	decimals := 0
	switch a := math.Abs(v); {
	case v == math.Trunc(v):
	case a < 9.995:
		decimals = 2
	case a < 99.95:
		decimals = 1
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}
