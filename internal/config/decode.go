package config

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// A decoder walks the nodes of a file and collects what is wrong with them.
type decoder struct {
	file     string
	problems []*Problem
	warnings []*Problem // what is allowed and probably a mistake
}

// A value is a node of the file and how messages speak of it.
type value struct {
	node    *yaml.Node
	path    string // e.g. export[1].select[0]
	example string // a line that would be right, e.g. "select: [host]"
}

// A field is a key that a mapping may have.
type field struct {
	key     string
	example string      // of a right value
	decode  func(value) // nil: the key is planned and not supported yet
}

func (d *decoder) err() error { return join(d.problems) }

// report notes a problem at the place of a node.
func (d *decoder) report(n *yaml.Node, path, what, remedy string) {
	d.problems = append(d.problems, d.problem(n, path, what, remedy))
}

func (d *decoder) problem(n *yaml.Node, path, what, remedy string) *Problem {
	// An empty document has no place; its first line is as good as any.
	return &Problem{
		File: d.file, Line: max(n.Line, 1), Column: max(n.Column, 1), Path: path, What: what, Remedy: remedy,
	}
}

// wrong notes that a value is not what its key wants.
func (d *decoder) wrong(v value, what, remedy string) { d.report(v.node, v.path, what, remedy) }

// mistyped notes that a value is of the wrong type.
func (d *decoder) mistyped(v value, want string) {
	remedy := "write it like this: " + v.example
	if v.example == "" {
		remedy = "write one key on each line, e.g. interval: 10s"
	}
	d.wrong(v, fmt.Sprintf("want %s, have %s", want, describe(v.node)), remedy)
}

// has tells whether a value is of a kind, and notes it if it is not. An empty mapping or list may be written as
// nothing at all: commenting all of its lines out must not break a file.
func (d *decoder) has(v value, kind yaml.Kind, want string) bool {
	switch {
	case v.node.Kind == yaml.AliasNode || v.node.Anchor != "":
		d.wrong(v, "anchors and aliases are not supported", "write the value out")
	case isNull(v.node) && kind != yaml.ScalarNode:
	case isNull(v.node):
		d.wrong(v, "has no value", "remove the key or write it like this: "+v.example)
	case v.node.Kind != kind:
		d.mistyped(v, want)
	default:
		return true
	}
	return false
}

// mapping decodes a mapping of known keys and returns those that it has, or nil if it is none.
func (d *decoder) mapping(v value, fields []field) map[string]bool {
	return d.entries(v, func(key *yaml.Node, v value) { d.field(key, v, fields) })
}

// entries decodes a mapping of any keys. each gets those that are in order.
func (d *decoder) entries(v value, each func(key *yaml.Node, v value)) map[string]bool {
	if !d.has(v, yaml.MappingNode, "keys with values") {
		return nil
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		key := v.node.Content[i]
		at := value{node: v.node.Content[i+1], path: strings.TrimPrefix(v.path+"."+show(key.Value), ".")}
		switch {
		case key.Kind != yaml.ScalarNode:
			d.report(key, v.path, "a key must be a word, not "+describe(key), "write it like this: interval: 10s")
		case seen[key.Value]:
			d.report(key, at.path, "the key is here twice", "keep one of the two")
		default:
			seen[key.Value] = true
			each(key, at)
		}
	}
	return seen
}

// field decodes the value of one key.
func (d *decoder) field(key *yaml.Node, v value, fields []field) {
	for _, f := range fields {
		switch {
		case f.key != key.Value:
		case f.decode == nil:
			// To pass over it would promise what does not happen.
			d.report(key, v.path, "not supported in this version", "remove the key")
			return
		default:
			v.example = f.key + ": " + f.example
			f.decode(v)
			return
		}
	}
	d.report(key, v.path, "unknown key", suggest(key.Value, keys(fields), "known keys"))
}

// keys returns the keys that may be used.
func keys(fields []field) []string {
	var list []string
	for _, f := range fields {
		if f.decode != nil {
			list = append(list, f.key)
		}
	}
	return list
}

// list decodes the items of a list.
func (d *decoder) list(v value, item func(value)) {
	if !d.has(v, yaml.SequenceNode, "a list") {
		return
	}
	for i, n := range v.node.Content {
		at := value{node: n, path: fmt.Sprintf("%s[%d]", v.path, i), example: v.example}
		if isNull(n) {
			d.wrong(at, "has no value", "write one or remove the line")
			continue
		}
		item(at)
	}
}

// words decodes a list of different words. each gets those that are in order.
func (d *decoder) words(v value, each func(v value, word string)) {
	seen := make(map[string]bool)
	d.list(v, func(v value) {
		word, ok := d.text(v)
		if !ok {
			return
		}
		if seen[word] {
			d.wrong(v, show(word)+" is listed twice", "keep one of the two")
			return
		}
		seen[word] = true
		each(v, word)
	})
}

// maxText bounds a text in bytes; attribute values of backends end at about this length.
const maxText = 256

// text decodes a text of one line.
func (d *decoder) text(v value) (string, bool) { return d.line(v, maxText) }

// line decodes a text of one line and at most so many bytes. Messages do not repeat it: it may be a secret.
func (d *decoder) line(v value, most int) (string, bool) {
	if !d.has(v, yaml.ScalarNode, "text") {
		return "", false
	}
	s := v.node.Value
	switch {
	case v.node.ShortTag() != "!!str":
		d.wrong(v, "want text, have "+describe(v.node), "put it in quotes if it is meant")
	case strings.TrimSpace(s) == "":
		d.wrong(v, "is empty", "write it like this: "+v.example)
	case len(s) > most:
		d.wrong(v, fmt.Sprintf("has %d bytes", len(s)), fmt.Sprintf("%d are allowed", most))
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		d.wrong(v, "has control characters", "write one line of plain text")
	default:
		return s, true
	}
	return "", false
}

// durationForm is a duration as time.ParseDuration takes it; one that matches and still fails is out of range.
var durationForm = regexp.MustCompile(`^[+-]?((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))+$`)

// unitless is a number with its unit forgotten.
var unitless = regexp.MustCompile(`^\d+(\.\d+)?$`)

// interval decodes a duration from MinInterval to MaxInterval. Without a valid one, into keeps its value.
func (d *decoder) interval(v value, into *time.Duration) bool {
	return d.duration(v, into, MinInterval, MaxInterval)
}

// duration decodes a duration from least to most. Without a valid one, into keeps its value.
func (d *decoder) duration(v value, into *time.Duration, least, most time.Duration) bool {
	if !d.has(v, yaml.ScalarNode, "a duration") {
		return false
	}
	s := v.node.Value
	got, err := time.ParseDuration(s)
	limits := fmt.Sprintf("use %s to %s", short(least), short(most))
	switch {
	case durationForm.MatchString(s) && strings.HasPrefix(s, "-"):
		d.wrong(v, show(s)+" is negative", limits)
	case err != nil && durationForm.MatchString(s), err == nil && got > most:
		d.wrong(v, show(s)+" is too long", limits)
	case err != nil && unitless.MatchString(s):
		d.wrong(v, show(s)+" has no unit", "write "+show(s)+"s for seconds")
	case err != nil:
		d.wrong(v, show(s)+" is no duration", "write a number and s, m or h, e.g. "+v.example)
	case got < least:
		d.wrong(v, show(s)+" is too short", limits)
	default:
		*into = got
		return true
	}
	return false
}

// port decodes the number of a TCP port.
func (d *decoder) port(v value, into *uint16) {
	if !d.has(v, yaml.ScalarNode, "a port") {
		return
	}
	if v.node.ShortTag() != "!!int" {
		d.mistyped(v, "a whole number")
		return
	}
	n, err := strconv.ParseUint(v.node.Value, 10, 16)
	if err != nil || n == 0 {
		d.wrong(v, show(v.node.Value)+" is no port", "use 1 to 65535")
		return
	}
	*into = uint16(n)
}

// truth decodes true or false.
func (d *decoder) truth(v value, into *bool) {
	if !d.has(v, yaml.ScalarNode, "true or false") {
		return
	}
	if v.node.ShortTag() != "!!bool" {
		d.mistyped(v, "true or false")
		return
	}
	*into = strings.EqualFold(v.node.Value, "true")
}

// short writes a duration without its zero parts: 1h, not 1h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// describe says what a node is, in words for a message.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys with values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch tag := n.ShortTag(); tag {
	case "!!str":
		return "text"
	case "!!int", "!!float":
		return "a number"
	case "!!null":
		return "nothing"
	case "!!bool":
		return "true or false"
	case "!!timestamp":
		return "a date"
	default:
		return "a value tagged " + show(tag)
	}
}

// readable checks what YAML has no good words for: the size and the characters of a file.
func (d *decoder) readable(data []byte) bool {
	at := func(offset int, what, remedy string) bool {
		before := data[:offset]
		line := 1 + bytes.Count(before, []byte("\n"))
		column := 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
		d.report(&yaml.Node{Line: line, Column: column}, "", what, remedy)
		return false
	}
	if len(data) > maxSize {
		return at(0, "the file is larger than 1 MiB", "is it the right file?")
	}
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			return at(i, fmt.Sprintf("byte %#02x is not UTF-8", data[i]), "save the file as UTF-8 text")
		case r < ' ' && r != '\t' && r != '\n' && r != '\r', r == 0x7f:
			return at(i, fmt.Sprintf("control character %U", r), "remove it")
		}
		i += size
	}
	return true
}

// syntaxForm is an error of the YAML library, with its line if it tells one.
var syntaxForm = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// unknownAnchor is the one common error for which the library never tells the line.
var unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)

// syntax notes that data is no YAML. The library's lines start at 1 and are left out on the first.
func (d *decoder) syntax(data []byte, err error) {
	p := &Problem{File: d.file, Line: 1, What: err.Error(), Remedy: "check the indentation (spaces, no tabs), quotes and brackets there"}
	if m := syntaxForm.FindStringSubmatch(err.Error()); m != nil {
		p.What = "not valid YAML: " + m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			p.Line = n
		}
		if a := unknownAnchor.FindStringSubmatch(m[2]); a != nil {
			p.Remedy = "write the value out; a text that begins with * needs quotes"
			before, _, _ := bytes.Cut(data, []byte("*"+a[1]))
			p.Line = 1 + bytes.Count(before, []byte("\n"))
		}
	}
	d.problems = append(d.problems, p)
}
