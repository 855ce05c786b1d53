package main

import (
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/collector/latency"
	"github.com/slid-agent/slid/collector/probe"
	"github.com/slid-agent/slid/collector/resource"
	"github.com/slid-agent/slid/collector/scrape"
	"github.com/slid-agent/slid/collector/service"
	"github.com/slid-agent/slid/collector/unit"
	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/slo"
)

// A configError is a configuration that cannot be used. Its text is one line per problem, each with file and line.
type configError struct{ err error }

func (e *configError) Error() string { return e.err.Error() }
func (e *configError) Unwrap() error { return e.err }

// loadConfig reads the configuration file, or the default one where that exists if path is empty, and the OpenSLO
// documents beside it.
func loadConfig(path string) (config.Config, error) {
	c, _, err := loadObjectives(path)
	return c, err
}

// loadObjectives is loadConfig for who also wants to know which SLOs others measure.
func loadObjectives(path string) (c config.Config, docs config.Documents, err error) {
	if c, err = config.Load(path); err == nil {
		err = checkCollectors(c)
	}
	if err == nil {
		docs, err = config.LoadDocuments(path)
	}
	if err == nil {
		err = c.Merge(docs)
	}
	if err == nil {
		err = checkObjectives(c)
	}
	if err != nil {
		return config.Config{}, config.Documents{}, &configError{err}
	}
	return c, docs, nil
}

// checkCollectors reports what the configuration switches on or off and nobody knows.
func checkCollectors(c config.Config) error {
	known := map[string][]string{}
	for _, f := range collectors(latency.Deps{}, c) {
		area, name, _ := strings.Cut(f.Name, "/")
		known[area] = append(known[area], name)
	}
	return c.CheckCollectors(known)
}

// checkObjectives reports the routes and objectives that are too many for the kernel.
func checkObjectives(c config.Config) error {
	o := &service.Objectives{}
	return errors.Join(c.CheckRoutes(o.AddRoutes), c.CheckObjectives(o.Add))
}

// objectives returns what services promise and the routes by which they are counted, as the kernel needs it.
func objectives(c config.Config) *service.Objectives {
	o := &service.Objectives{}
	for _, s := range c.Services {
		o.AddRoutes(s.Name, s.Routes) // what is wrong with them, checkObjectives has reported
	}
	for _, objective := range c.SLOs {
		o.Add(objective) // likewise
	}
	return o
}

// lenientConfig is loadConfig for commands that anybody may run: a default file that only the service's user may read
// counts as none. unread then says so.
func lenientConfig(path string) (c config.Config, unread bool, err error) {
	c, err = loadConfig(path)
	if path == "" && errors.Is(err, fs.ErrPermission) {
		return config.Default(), true, nil
	}
	return c, false, err
}

// switchedOff returns why the configuration does not want a collector, or "" if it does.
func switchedOff(c config.Config, f collector.Factory) string {
	area, name, _ := strings.Cut(f.Name, "/")
	disabled := map[string][]string{"host": c.Host.Disabled, "latency": c.Latency.Disabled}[area]
	switch {
	case slices.Contains(disabled, name):
		return "switched off by " + area + ".disabled in the configuration"
	case f.Name == probe.Name && len(c.Probes) == 0:
		return "off by default: name servers to ask by probes in the configuration"
	case sourceOf(f) != "" && len(indicators(c, sourceOf(f))) == 0:
		return "off by default: an objective in the configuration can have the source " + sourceOf(f)
	case f.OptIn && !slices.Contains(c.Latency.Enabled, name):
		return "opt-in: latency.enabled in the configuration switches it on"
	}
	return ""
}

// sourceOf returns the source of objectives' events that a collector is, or nothing.
func sourceOf(f collector.Factory) string {
	return map[string]string{
		scrape.Name: slo.ScrapeSource, unit.Name: slo.UnitSource, resource.Name: slo.ResourceSource,
	}[f.Name]
}

// overrides returns the names that the configuration gives to services.
func overrides(c config.Config) []service.Override {
	var list []service.Override
	for _, s := range c.Services {
		list = append(list, service.Override{
			Name: s.Name, Port: s.Match.Port, Unit: s.Match.Unit, Container: s.Match.Container, Command: s.Match.Command,
		})
	}
	return list
}

// probeOptions returns the probes of the configuration.
func probeOptions(c config.Config) []probe.Options {
	var list []probe.Options
	for _, p := range c.Probes {
		list = append(list, probe.Options{
			Name: p.Name, Service: p.Service, Target: p.Target, Interval: p.Interval, Timeout: p.Timeout,
			Method: p.Method, Headers: p.Headers, Status: p.Expect.Status, Body: p.Expect.Body,
			CA: p.TLS.CA, ServerName: p.TLS.ServerName,
		})
	}
	return list
}
