package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/slid-agent/slid/internal/slo"
)

// documentsFolder is where OpenSLO documents are, beside the configuration file.
const documentsFolder = "slo.d"

// Documents is what a set of OpenSLO v1 documents promises.
type Documents struct {
	Objectives []slo.Objective
	NotLocal   []NotLocal // what other programs measure
	Warnings   []*Problem // what is allowed and probably a mistake
	Kinds      []Kind     // what there is, in the order of kinds

	places []Problem // where each of Objectives stands
}

// NotLocal is an SLO whose metrics come from another vendor's source. It is skipped: one file serves several programs.
type NotLocal struct {
	SLO    string
	Source string // the type of the source, e.g. Prometheus
	Place  string // file:line
}

// Kind counts the objects of a kind.
type Kind struct {
	Name  string
	Count int
}

// A File is a file in memory.
type File struct {
	Name string // for messages
	Data []byte
}

// IsOpenSLO tells whether a file has OpenSLO documents rather than slid's configuration, by the keys only those have.
func IsOpenSLO(f File) bool {
	d := &decoder{file: f.Name}
	for _, root := range d.documents(f.Data) {
		if child(root, "apiVersion") != nil || child(root, "kind") != nil {
			return true
		}
	}
	return false
}

// ReadFile reads a configuration file or a file of documents. The error is a *Problem.
func ReadFile(path string) (File, error) {
	data, err := readFile(path)
	if err != nil {
		return File{}, fileProblem(path, err)
	}
	return File{path, data}, nil
}

// LoadDocuments reads the OpenSLO documents that belong to a configuration file: every *.yaml in the folder slo.d beside
// it. An empty path means DefaultPath. The folder need not exist.
func LoadDocuments(path string) (Documents, error) {
	folder := filepath.Join(filepath.Dir(cmp.Or(path, DefaultPath)), documentsFolder)
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p := fileProblem(folder, err)
		p.Remedy = "make it a folder that the user slid runs as may read"
		return Documents{}, p
	}
	var files []File
	for _, e := range entries {
		if e.IsDir() || filepath.Ext(e.Name()) != ".yaml" {
			continue
		}
		f, err := ReadFile(filepath.Join(folder, e.Name()))
		if err != nil {
			return Documents{}, err
		}
		files = append(files, f)
	}
	return ParseDocuments(files...)
}

// Merge adds the objectives of documents to those of the configuration. The error joins one *Problem for each name that
// both have for different things.
func (c *Config) Merge(docs Documents) error {
	var list []error
	for i, o := range docs.Objectives {
		for k, mine := range c.SLOs {
			p := docs.places[i]
			there := c.places[k].Path + " at " + c.places[k].place()
			p.Remedy = "give each its own name"
			if mine.Name == o.Name {
				p.What = fmt.Sprintf("has the name %s, as has %s", o.Name, there)
				list = append(list, &p)
			} else if what := clash(mine, o); what != "" {
				p.What = what + " " + there
				list = append(list, &p)
			}
		}
	}
	c.SLOs, c.places = append(c.SLOs, docs.Objectives...), append(c.places, docs.places...)
	return errors.Join(list...)
}

// clash says that two objectives have different indicators of one name; nothing if they have not.
func clash(a, b slo.Objective) string {
	for _, m := range a.Members {
		for _, n := range b.Members {
			if m.Indicator.Name == n.Indicator.Name && !reflect.DeepEqual(m.Indicator, n.Indicator) {
				return "the indicator " + m.Indicator.Name + " is another one than that of"
			}
		}
	}
	return ""
}

// place returns file:line.
func (p *Problem) place() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// ParseDocuments reads OpenSLO v1 documents, which may refer to each other across files. The error joins one *Problem for
// each thing that is wrong, in the order of the files; the Documents are then not to be used.
func ParseDocuments(files ...File) (Documents, error) {
	set := &documentSet{objects: make(map[objectKey]*object)}
	decoders := make([]*decoder, len(files))
	for i, f := range files {
		d := &decoder{file: f.Name}
		decoders[i] = d
		for _, root := range d.documents(f.Data) {
			set.add(d, d.object(value{node: root, example: "kind: SLO"}, ""))
		}
	}
	var docs Documents
	set.resolve(&docs)
	var errs []error
	for _, d := range decoders {
		errs = append(errs, d.err())
		docs.Warnings = append(docs.Warnings, d.warnings...)
	}
	if err := errors.Join(errs...); err != nil {
		return Documents{}, err
	}
	return docs, nil
}

// documents returns the root nodes of all documents in data that are not empty.
func (d *decoder) documents(data []byte) []*yaml.Node {
	if !d.readable(data) {
		return nil
	}
	var roots []*yaml.Node
	for dec := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var n yaml.Node
		switch err := dec.Decode(&n); {
		case errors.Is(err, io.EOF):
			return roots
		case err != nil:
			d.syntax(data, err)
			return roots
		case len(n.Content) > 0 && !isNull(n.Content[0]):
			roots = append(roots, n.Content[0])
		}
	}
}

// child returns the value of a key of a mapping, or nil.
func child(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// kinds are those of OpenSLO v1, in the order of its specification.
var kinds = []string{
	"DataSource", "SLO", "SLI", "AlertPolicy", "AlertCondition", "AlertNotificationTarget", "Service",
}

// An object is an OpenSLO object: a document, or the same inline in another.
type object struct {
	d         *decoder
	at        value
	kind      string
	name      string
	nameAt    value
	source    string // DataSource: its type
	broken    bool   // something is wrong with it, and noted
	slo       sloSpec
	sli       sliSpec
	policy    policySpec
	condition conditionSpec
}

type objectKey struct{ kind, name string }

// object decodes an object. Inline ones have the kind that their place gives them.
func (d *decoder) object(v value, inline string) *object {
	o := &object{d: d, at: v, kind: inline, nameAt: v}
	if inline == "" {
		if o.kind = d.kindOf(v); o.kind == "" {
			return nil
		}
	}
	before := len(d.problems)
	seen := d.mapping(v, []field{
		{"apiVersion", "openslo/v1", d.apiVersion},
		{"kind", o.kind, func(v value) {
			if v.node.Value != o.kind {
				d.wrong(v, "here stands a "+o.kind+", not a "+show(v.node.Value), "write kind: "+o.kind)
			}
		}},
		{"metadata", "{name: checkout}", func(v value) { d.metadata(v, o) }},
		{"spec", "{description: what it is}", func(v value) { d.spec(v, o) }},
	})
	if inline == "" {
		d.require(v, seen, "apiVersion", "add apiVersion: openslo/v1")
	}
	d.require(v, seen, "metadata", "add metadata: {name: ...}")
	d.require(v, seen, "spec", "add spec:")
	o.broken = len(d.problems) > before
	return o
}

// kindOf returns the kind of a document, or nothing if it has no good one.
func (d *decoder) kindOf(v value) string {
	if !d.has(v, yaml.MappingNode, "an OpenSLO object") {
		return ""
	}
	n := child(v.node, "kind")
	if n == nil {
		d.wrong(v, "kind is missing", "add e.g. kind: SLO")
		return ""
	}
	at := value{node: n, path: "kind", example: "kind: SLO"}
	kind, ok := d.text(at)
	if !ok {
		return ""
	}
	if !slices.Contains(kinds, kind) {
		d.wrong(at, "there is no kind "+show(kind), suggest(kind, kinds, "kinds"))
		return ""
	}
	return kind
}

func (d *decoder) apiVersion(v value) {
	s, ok := d.text(v)
	switch {
	case !ok:
	case strings.EqualFold(s, "openslo/v1alpha"), strings.HasPrefix(s, "openslo.com/"):
		d.wrong(v, "slid does not read "+show(s), "translate it to openslo/v1")
	case s != "openslo/v1":
		d.wrong(v, show(s)+" is no version of OpenSLO", "write apiVersion: openslo/v1")
	}
}

func (d *decoder) metadata(v value, o *object) {
	seen := d.mapping(v, []field{
		{"name", "checkout-fast", func(v value) { o.nameAt = v; d.name(v, &o.name) }},
		{"displayName", "Checkout is fast", func(v value) { d.text(v) }},
		{"labels", "{team: shop}", d.labels},
		{"annotations", "{runbook: https://wiki/checkout}", d.annotations},
	})
	if isNull(v.node) {
		seen = map[string]bool{}
	}
	d.require(v, seen, "name", "add e.g. name: checkout-fast")
}

// labels decodes labels, whose values are texts or lists of texts.
func (d *decoder) labels(v value) {
	d.entries(v, func(_ *yaml.Node, v value) {
		v.example = "team: shop"
		if v.node.Kind == yaml.SequenceNode {
			d.words(v, func(value, string) {})
			return
		}
		d.text(v)
	})
}

func (d *decoder) annotations(v value) {
	d.entries(v, func(key *yaml.Node, v value) {
		v.example = "runbook: https://wiki/checkout"
		if strings.HasPrefix(key.Value, "openslo.com/") {
			d.report(key, v.path, "annotations that begin with openslo.com/ are OpenSLO's own", "use a prefix of your own")
		}
		d.line(v, maxProse)
	})
}

// maxProse bounds a description in characters (OpenSLO v1).
const maxProse = 1050

// prose decodes a description, which may have several lines.
func (d *decoder) prose(v value) string {
	if !d.has(v, yaml.ScalarNode, "text") {
		return ""
	}
	if n := utf8.RuneCountInString(v.node.Value); n > maxProse {
		d.wrong(v, fmt.Sprintf("has %d characters", n), fmt.Sprintf("%d are allowed", maxProse))
	}
	return strings.TrimSpace(v.node.Value)
}

// spec decodes the specification of an object.
func (d *decoder) spec(v value, o *object) {
	description := field{"description", "what it is", func(v value) { d.prose(v) }}
	anything := func(value) {} // what other programs need
	switch o.kind {
	case "DataSource":
		seen := d.mapping(v, []field{
			description,
			{"type", "slid", func(v value) { o.source, _ = d.text(v) }},
			{"connectionDetails", "{url: https://metrics}", anything},
		})
		d.require(v, seen, "type", "add e.g. type: Prometheus")
	case "Service":
		d.mapping(v, []field{description})
	case "AlertNotificationTarget":
		seen := d.mapping(v, []field{description, {"target", "email", func(v value) { d.text(v) }}})
		d.require(v, seen, "target", "add e.g. target: email")
	case "SLI":
		o.sli = d.sliSpec(v, description)
	case "SLO":
		o.slo = d.sloSpec(v)
	case "AlertPolicy":
		o.policy = d.policySpec(v, description)
	case "AlertCondition":
		o.condition = d.conditionSpec(v, description)
	}
}

// A documentSet is all objects of a set of documents.
type documentSet struct {
	objects map[objectKey]*object
	order   []*object
}

// add takes an object into the set, unless its name is taken.
func (s *documentSet) add(d *decoder, o *object) {
	if o == nil || o.name == "" {
		return
	}
	key := objectKey{o.kind, o.name}
	if other := s.objects[key]; other != nil {
		d.wrong(o.nameAt, fmt.Sprintf("there is already a %s %s at %s", o.kind, o.name, other.place()), "give each its own name")
		return
	}
	s.objects[key] = o
	s.order = append(s.order, o)
}

// place returns file:line of the object's name.
func (o *object) place() string { return o.d.problem(o.nameAt.node, "", "", "").place() }

// A reference is the name of an object elsewhere.
type reference struct {
	at   value
	name string // empty: none
}

func (d *decoder) reference(v value) reference {
	r := reference{at: v}
	d.name(v, &r.name)
	return r
}

// find returns the object that is referred to, or nil, noted, if there is none.
func (s *documentSet) find(d *decoder, r reference, kind string) *object {
	o := s.objects[objectKey{kind, r.name}]
	if o == nil {
		var known []string
		for _, other := range s.order {
			if other.kind == kind {
				known = append(known, other.name)
			}
		}
		remedy := "add one, or name its file too"
		if len(known) > 0 {
			remedy = suggest(r.name, known, kind+"s")
		}
		d.wrong(r.at, "there is no "+kind+" "+show(r.name), remedy)
	}
	return o
}

// resolve follows the references and makes objectives of the SLOs.
func (s *documentSet) resolve(docs *Documents) {
	counts := make(map[string]int)
	b := &builder{set: s, docs: docs, indicators: make(map[string]knownIndicator), names: make(map[string]string)}
	for _, o := range s.order {
		counts[o.kind]++
		switch o.kind {
		case "SLO":
			b.slo(o)
		case "AlertPolicy":
			b.alert(o)
		case "SLI":
			b.check(o)
		}
	}
	for _, kind := range kinds {
		if counts[kind] > 0 {
			docs.Kinds = append(docs.Kinds, Kind{kind, counts[kind]})
		}
	}
}
