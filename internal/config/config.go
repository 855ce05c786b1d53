// Package config reads slid's configuration file and OpenSLO v1 documents: YAML in, defaults filled in, and every problem
// of a file reported at once with its place and its remedy.
//
// A file is read once at start, whole and bounded in size; nothing is kept open. The package knows the keys and
// their meaning and nothing of the parts they configure: cmd/slid hands the values on. Objectives are those of
// internal/slo, in whichever of the two forms they are written.
package config

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/slo"
)

// DefaultPath is the file that Load reads when no other is named.
const DefaultPath = "/etc/slid/slid.yaml"

// The limits of intervals. Below a second the agent would cost more than it tells; an hour without a word is
// indistinguishable from a dead host.
const (
	MinInterval = time.Second
	MaxInterval = time.Hour
)

// maxSize bounds a configuration file; a hundred times what a large one needs.
const maxSize = 1 << 20

// MaxSyscalls is how many system calls can be measured at a time.
const MaxSyscalls = 32

// Config is a whole configuration, defaults filled in.
type Config struct {
	Interval time.Duration // between two ticks, MinInterval to MaxInterval
	Host     Host
	Latency  Latency
	Services []Service // overrides of discovered names; the first that matches wins
	SLOs     []slo.Objective
	Probes   []Probe       // what slid asks by itself; their names are unique
	Export   []Destination // empty: the file names none

	named  []named   // collectors that are switched on or off, with their places in the file
	places []Problem // where each of SLOs stands
}

// Host configures the collectors of the host.
type Host struct {
	Disabled []string // collectors that do not run, e.g. disk
	// Root is where the host's /proc, /sys and / are mounted, an absolute path: / on the host itself, /host in a
	// container.
	Root string
	// PerCPU adds the times of every processor to those of all together.
	PerCPU bool
}

// Latency configures the kernel's latency probes.
type Latency struct {
	Disabled []string // probes that are not loaded, e.g. runqueue
	Enabled  []string // probes that are loaded though they are not by default, e.g. softirq
	// Syscalls are the names of the calls that the probe of system calls measures, 1 to MaxSyscalls. They may be of any
	// architecture.
	Syscalls []string
	// CPUBudget is the share of all CPUs, 0 to 1, that the probes together may take in the kernel; more makes them sample.
	CPUBudget float64
}

// Service gives a discovered service another name.
type Service struct {
	Name  string // the service.name of its metrics
	Match Match
	// Routes are the starts of the paths by which its requests are counted, e.g. /pay/; the longest that fits counts.
	Routes []string

	place Problem // where Routes stands
}

// Match tells which discovered service is meant. Every field that is set must agree; at least one is.
type Match struct {
	Port      uint16 // the port it listens on; 0 means any
	Unit      string // its systemd unit, e.g. nginx.service
	Container string // the id or the start of the id of its container
	Command   string // its program's name as in /proc/PID/comm
}

// Destination is a backend that gets metrics by OTLP over gRPC.
type Destination struct {
	Name     string            // unique; letters, digits, dots, dashes and underscores
	Endpoint string            // a URL: https://host:port, or http:// for no TLS
	Headers  map[string]string // sent with every request, e.g. credentials; the names in lower case
	// Select lists the classes of metrics it gets, without repetition. The agent's own class is always one.
	Select   []metric.Class
	Interval time.Duration // between two exports; a multiple of Config.Interval
	Names    metric.Names  // how it calls the metrics
}

// Default returns the configuration of an empty file.
func Default() Config {
	return Config{Interval: 10 * time.Second, Host: Host{Root: "/"}, Latency: Latency{CPUBudget: 0.005, Syscalls: []string{
		// Calls whose time is that of files, disks and networks. Those that mostly wait for something to happen are left
		// out: the time of accept, poll or futex tells how little there was to do.
		"read", "pread64", "write", "pwrite64", "openat", "fsync", "fdatasync", "connect",
	}}}
}

// Load reads the file at path. An empty path means DefaultPath, which need not exist; a file that is named must.
// The error joins one *Problem for each thing that is wrong.
func Load(path string) (Config, error) {
	if path == "" {
		return load(DefaultPath, true)
	}
	return load(path, false)
}

func load(path string, optional bool) (Config, error) {
	data, err := readFile(path)
	if optional && errors.Is(err, fs.ErrNotExist) {
		return Default(), nil
	}
	if err != nil {
		p := fileProblem(path, err)
		if errors.Is(err, fs.ErrNotExist) {
			p.Remedy += ", or leave --config out to run with defaults"
		}
		return Config{}, p
	}
	return Parse(path, data)
}

// readFile reads at most one byte more than Parse accepts, so that an endless file costs nothing.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSize+1))
}

// fileProblem explains why a file could not be read.
func fileProblem(path string, err error) *Problem {
	p := &Problem{File: path, What: "cannot be read", Err: err}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		p.What += ": " + pe.Err.Error()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.Remedy = "check the path"
	case errors.Is(err, fs.ErrPermission):
		p.Remedy = "make it readable for the user slid runs as"
	default:
		p.Remedy = "name a regular file"
	}
	return p
}

// Parse reads a configuration from data; name stands for the file in messages. The error joins one *Problem for
// each thing that is wrong, in the order of the file; the Config is then not to be used.
func Parse(name string, data []byte) (Config, error) {
	d := &decoder{file: name}
	c := Default()
	if root := d.document(data); root != nil {
		d.config(value{node: root}, &c)
	}
	if err := d.err(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// named is an entry of host.disabled, latency.disabled or latency.enabled.
type named struct {
	area    string // host or latency
	name    string
	enabled bool
	place   Problem // where it stands
}

// CheckCollectors reports the entries of host.disabled, latency.disabled and latency.enabled that are none of the known
// names of their area, as Parse would: only the caller knows which collectors exist. A misspelt name would leave a
// collector running that was meant to be off. One that is both enabled and disabled is reported, too.
func (c Config) CheckCollectors(known map[string][]string) error {
	var list []error
	for _, e := range c.named {
		p := e.place
		switch {
		case !slices.Contains(known[e.area], e.name):
			verb := "disable"
			if e.enabled {
				verb = "enable"
			}
			p.What = "there is no " + show(e.name) + " to " + verb
			p.Remedy = suggest(e.name, known[e.area], "known names")
		case e.enabled && slices.Contains(c.Latency.Disabled, e.name):
			p.What = show(e.name) + " is both enabled and disabled"
			p.Remedy = "remove it from one of the two lists"
		default:
			continue
		}
		list = append(list, &p)
	}
	return errors.Join(list...)
}

// CheckObjectives reports the objectives that check finds fault with, as Parse would: only the caller knows how many can be
// counted. check says what is wrong and what to do about it, or nothing.
func (c Config) CheckObjectives(check func(slo.Objective) (what, remedy string)) error {
	var list []error
	for i, o := range c.SLOs {
		what, remedy := check(o)
		list = append(list, c.places[i].with(what, remedy))
	}
	return errors.Join(list...)
}

// CheckRoutes reports the routes of services that check finds fault with, as CheckObjectives does for objectives.
func (c Config) CheckRoutes(check func(service string, routes []string) (what, remedy string)) error {
	var list []error
	for _, s := range c.Services {
		what, remedy := check(s.Name, s.Routes)
		list = append(list, s.place.with(what, remedy))
	}
	return errors.Join(list...)
}

// document returns the root node of the only document in data, or nil if there is none.
func (d *decoder) document(data []byte) *yaml.Node {
	if !d.readable(data) {
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	if err := dec.Decode(&first); err != nil {
		if !errors.Is(err, io.EOF) {
			d.syntax(data, err)
		}
		return nil
	}
	switch err := dec.Decode(&second); {
	case err == nil:
		d.report(&second, "", "a second YAML document begins", "keep one document and remove the --- line")
	case !errors.Is(err, io.EOF):
		d.syntax(data, err)
	}
	return first.Content[0]
}
