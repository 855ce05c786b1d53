package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxProblems bounds how many problems of one file are reported: a wrong file has one for each line.
const maxProblems = 50

// A Problem is one thing that is wrong in a configuration file.
type Problem struct {
	File   string
	Line   int    // from 1; 0 if the file could not be read at all
	Column int    // from 1, in characters; 0 if only the line is known
	Path   string // of the key, e.g. export[1].endpoint; empty for the file as a whole
	What   string // what is wrong
	Remedy string // what the user can do about it
	Err    error  // the cause; may be nil
}

// Error returns "file:line:column: path: what is wrong; remedy".
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	for _, n := range []int{p.Line, p.Column} {
		if n > 0 {
			fmt.Fprintf(&b, ":%d", n)
		}
	}
	for _, part := range []string{p.Path, p.What} {
		if part != "" {
			b.WriteString(": " + part)
		}
	}
	if p.Remedy != "" {
		b.WriteString("; " + p.Remedy)
	}
	return b.String()
}

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.Err }

// with returns the problem with what is wrong and the remedy, or nil if nothing is wrong.
func (p Problem) with(what, remedy string) error {
	if what == "" {
		return nil
	}
	p.What, p.Remedy = what, remedy
	return &p
}

// join returns the problems as one error in the order of the file, or nil. One that several references lead to is told
// once.
func join(problems []*Problem) error {
	slices.SortStableFunc(problems, func(a, b *Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	problems = slices.CompactFunc(problems, func(a, b *Problem) bool { return a.Error() == b.Error() })
	list := make([]error, 0, len(problems))
	for i, p := range problems {
		if i == maxProblems {
			rest := *p
			rest.Path, rest.What = "", fmt.Sprintf("%d more problems from here on", len(problems)-i)
			rest.Remedy = "mend the others first"
			list = append(list, &rest)
			break
		}
		list = append(list, p)
	}
	return errors.Join(list...)
}

// show returns a word of the file for use in a message: as it is if it is plain, else quoted, so that no file can
// write control characters to a terminal.
func show(s string) string {
	s = cut(s)
	if s != "" && strings.IndexFunc(s, special) < 0 {
		return s
	}
	return strconv.Quote(s)
}

// cut shortens a text so that no file can fill a terminal with one.
func cut(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	s = s[:most]
	for !utf8.ValidString(s) { // not in the middle of a character
		s = s[:len(s)-1]
	}
	return s + "..."
}

// special tells whether a rune makes a word need quotes.
func special(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_./", r)
}

// Suggest returns what to write instead of a word that is not known, in words: the known one that looks like it, or all
// of them under a title.
func Suggest(word string, known []string, title string) string { return suggest(word, known, title) }

// suggest returns what to write instead of word: the known word that looks like it, or all of them under a title.
func suggest(word string, known []string, title string) string {
	best, least := "", 1+max(1, len(word)/3)
	for _, k := range known {
		if d := distance(word, k); d < least {
			best, least = k, d
		}
	}
	switch {
	case best != "":
		return "did you mean " + best + "?"
	case len(known) == 0:
		return "remove it"
	}
	return title + ": " + strings.Join(known, ", ")
}

// distance is how many bytes must be added, dropped, changed or swapped with their neighbour to make b of a (the
// restricted Damerau-Levenshtein distance). Long words get the difference of their lengths, which is never more.
func distance(a, b string) int {
	const long = 64
	if len(a) > long || len(b) > long {
		return max(len(a)-len(b), len(b)-len(a))
	}
	var cost [long + 1][long + 1]int // of making b[:j] of a[:i]
	for i := range len(a) + 1 {
		for j := range len(b) + 1 {
			switch {
			case i == 0 || j == 0:
				cost[i][j] = i + j
				continue
			case a[i-1] == b[j-1]:
				cost[i][j] = cost[i-1][j-1]
			default:
				cost[i][j] = 1 + min(cost[i-1][j-1], cost[i-1][j], cost[i][j-1])
			}
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cost[i][j] = min(cost[i][j], cost[i-2][j-2]+1)
			}
		}
	}
	return cost[len(a)][len(b)]
}
