package text

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const ellipsis = "…"

// clean makes text from outside fit to be shown: control characters (among them the escape that begins terminal
// sequences), characters that turn the direction of writing, line breaks and broken UTF-8 become U+FFFD.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, s)
}

// wide are the blocks whose characters take two columns: East Asian scripts and emoji.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x1100, 0x115f, 1},
		{0x2e80, 0x303e, 1},
		{0x3041, 0x33ff, 1},
		{0x3400, 0x4dbf, 1},
		{0x4e00, 0x9fff, 1},
		{0xa000, 0xa4cf, 1},
		{0xa960, 0xa97f, 1},
		{0xac00, 0xd7a3, 1},
		{0xf900, 0xfaff, 1},
		{0xfe30, 0xfe6f, 1},
		{0xff00, 0xff60, 1},
		{0xffe0, 0xffe6, 1},
	},
	R32: []unicode.Range32{
		{0x16fe0, 0x18cff, 1},
		{0x1b000, 0x1b2ff, 1},
		{0x1f300, 0x1f64f, 1},
		{0x1f680, 0x1f6ff, 1},
		{0x1f900, 0x1faff, 1},
		{0x20000, 0x3fffd, 1},
	},
}

// runeWidth returns the columns that a terminal gives a printable character.
func runeWidth(r rune) int {
	switch {
	case r < 0x300: // before the first of the accents; nearly all text
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case unicode.Is(wide, r):
		return 2
	}
	return 1
}

// width returns the columns that cleaned text takes.
func width(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

// marksPerColumn bounds the accents that may stand on the characters of one column.
const marksPerColumn = 4

// shorten returns s, or as much of its beginning as fits into n columns with an ellipsis.
func shorten(s string, n int) string {
	if width(s) <= n && utf8.RuneCountInString(s) <= marksPerColumn*n {
		return s
	}
	if n <= 0 {
		return ""
	}
	used, runes := 0, 0
	for i, r := range s {
		used += runeWidth(r)
		runes++
		if used > n-1 || runes > marksPerColumn*n {
			return s[:i] + ellipsis
		}
	}
	return s
}

// pad cleans s and makes it exactly n columns wide.
func pad(s string, n int, right bool) string {
	s = shorten(clean(s), n)
	fill := strings.Repeat(" ", max(n-width(s), 0))
	if right {
		return fill + s
	}
	return s + fill
}

// wrap breaks text into lines of at most n columns: between words, and within a word that is longer than a line.
func wrap(s string, n int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(s) {
		if line != "" && width(line)+1+width(word) <= n {
			line += " " + word
			continue
		}
		if line != "" {
			lines = append(lines, line)
		}
		for width(word) > n {
			end := fit(word, n)
			lines = append(lines, word[:end])
			word = word[end:]
		}
		line = word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// fit returns how many bytes of s take at most n columns; at least one character.
func fit(s string, n int) int {
	used := 0
	for i, r := range s {
		used += runeWidth(r)
		if used > n && i > 0 {
			return i
		}
	}
	return len(s)
}
