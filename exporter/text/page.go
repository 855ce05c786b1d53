package text

import (
	"bytes"
	"strings"
)

const (
	defaultWidth = 80
	minWidth     = 60 // less leaves no room for the numbers
)

// layout is what a table may use of the terminal.
type layout struct {
	width int
	color bool
}

// style is a way to set off text; all are dispensable.
type style string

const (
	plain  style = ""
	bold   style = "\x1b[1m"
	dim    style = "\x1b[2m"
	red    style = "\x1b[31m"
	yellow style = "\x1b[33m"
	green  style = "\x1b[32m"
	reset        = "\x1b[0m"
)

// page writes lines that are never wider than the layout. All text goes through put, which takes the teeth out of
// names that come from outside.
type page struct {
	b      *bytes.Buffer
	layout layout
	column int
}

func newPage(b *bytes.Buffer, l layout) *page {
	if l.width == 0 {
		l.width = defaultWidth
	}
	l.width = max(l.width, minWidth)
	return &page{b: b, layout: l}
}

// put appends text to the line, as much of it as has room.
func (p *page) put(s style, text string) {
	text = shorten(clean(text), p.layout.width-p.column)
	if text == "" {
		return
	}
	p.column += width(text)
	if !p.layout.color || s == plain {
		p.b.WriteString(text)
		return
	}
	p.b.WriteString(string(s) + text + reset)
}

// end ends the line.
func (p *page) end() {
	p.b.WriteByte('\n')
	p.column = 0
}

// line writes one line of one style.
func (p *page) line(s style, text string) {
	p.put(s, text)
	p.end()
}

// title begins a section.
func (p *page) title(text string) {
	p.end()
	p.line(bold, text)
}

// paragraph writes text in as many lines as it needs: the first begins with head, the others are indented as far.
func (p *page) paragraph(s style, head, text string) {
	head = clean(head)
	indent := width(head)
	for i, line := range wrap(clean(text), p.layout.width-indent) {
		if i == 0 {
			p.put(plain, head)
		} else {
			p.put(plain, strings.Repeat(" ", indent))
		}
		p.line(s, line)
	}
}

// cell is one field of a grid.
type cell struct {
	text  string
	style style
}

// grid is a table in which the first column is a mark of one character, the second is of names and flush left, and
// the others are of numbers and flush right. Names are shortened when there is no room.
type grid struct {
	titles []string
	rows   [][]cell
}

// add appends a row without marks and styles.
func (g *grid) add(fields ...string) {
	row := make([]cell, 0, len(fields)+1)
	row = append(row, cell{text: " "})
	for _, f := range fields {
		row = append(row, cell{text: f})
	}
	g.rows = append(g.rows, row)
}

// nameColumn is the column of names; it gives way.
const nameColumn = 1

// grid writes g; its titles are the title of the section.
func (p *page) grid(g grid) {
	widths := make([]int, len(g.titles))
	for i, t := range g.titles {
		widths[i] = width(t)
	}
	for _, row := range g.rows {
		for i, c := range row {
			widths[i] = max(widths[i], width(clean(c.text)))
		}
	}
	widths[0] = 1
	gap := 2
	if p.room(widths, gap) < 0 {
		gap = 1
		widths[nameColumn] = max(widths[nameColumn]+min(p.room(widths, gap), 0), 1)
	}
	p.end()
	titles := make([]cell, len(g.titles))
	for i, t := range g.titles {
		titles[i] = cell{t, bold}
	}
	// The name of the section stands at the margin, over the marks.
	p.row(titles[nameColumn:], append([]int{widths[nameColumn] + 2}, widths[nameColumn+1:]...), gap)
	for _, row := range g.rows {
		p.put(row[0].style, pad(row[0].text, 1, false)+" ")
		p.row(row[nameColumn:], widths[nameColumn:], gap)
	}
}

// room returns how many columns of the line a grid leaves.
func (p *page) room(widths []int, gap int) int {
	room := p.layout.width - 2 // mark and space
	for _, w := range widths[nameColumn:] {
		room -= w
	}
	return room - gap*(len(widths)-nameColumn-1)
}

func (p *page) row(row []cell, widths []int, gap int) {
	for i, c := range row {
		if i > 0 {
			p.put(plain, strings.Repeat(" ", gap))
		}
		p.put(c.style, pad(c.text, widths[i], i > 0))
	}
	p.end()
}
