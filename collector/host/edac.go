package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.opentelemetry.io/otel/attribute"
)

// findEDAC finds out what a memory controller has (Documentation/admin-guide/RAS/main.rst): errors of each module
// (dimm, or rank where the controller knows no more); where the driver counts none by module, of each channel of a row
// of chips. Errors that the controller cannot place are its own. Files that a driver leaves out are left out.
func findEDAC(c *sensorChip) error {
	c.id, c.parent, c.title = c.entry, "edac", c.text("mc_name")
	names := c.list(".")
	modules := 0
	for _, name := range names {
		if prefix, number := splitNumbered(name); number >= 0 && (prefix == "dimm" || prefix == "rank") {
			modules += c.addMemory(name, c.text(name+"/dimm_label"), name+"/dimm_ce_count", name+"/dimm_ue_count")
		}
	}
	if modules == 0 {
		for _, name := range names {
			if prefix, number := splitNumbered(name); number >= 0 && prefix == "csrow" {
				c.addRow(name)
			}
		}
	}
	c.addMemory("", c.title, "ce_noinfo_count", "ue_noinfo_count")
	return nil
}

// addRow adds the errors of a row of chips. Corrected ones belong to a channel; the others only to the row.
func (c *sensorChip) addRow(row string) {
	channels := 0
	for _, name := range c.list(row) {
		channel, ok := strings.CutSuffix(name, "_ce_count")
		if ok && strings.HasPrefix(channel, "ch") {
			channels += c.addMemory(row+"/"+channel, c.text(row+"/"+channel+"_dimm_label"), row+"/"+name, "")
		}
	}
	if channels > 0 {
		c.addMemory(row, "", "", row+"/ue_count")
		return
	}
	c.addMemory(row, "", row+"/ce_count", row+"/ue_count")
}

// addMemory adds the errors of a part of the memory and returns how many of the files there are.
func (c *sensorChip) addMemory(key, label, corrected, uncorrected string) (found int) {
	name := label
	if name == "" {
		name = key
	}
	if name == "" {
		name = c.id
	}
	for i, file := range [...]string{corrected, uncorrected} {
		if file == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(c.dir, file)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		found++
		c.addErrors(key, name, "memory", [...]string{"corrected", "uncorrected"}[i], c.add(file, parseCount))
	}
	return found
}

// addErrors adds a total of errors.
func (c *sensorChip) addErrors(key, name, kind, errorType string, file int) {
	c.outputs = append(c.outputs, sensorOutput{
		metric: sensorErrors, key: key, name: name, from: []int{file}, sum: true,
		attrs: []attribute.KeyValue{attribute.String("hw.type", kind), attribute.String("error.type", errorType)},
	})
}

// parseCount reads a number that cannot be negative.
func parseCount(b []byte) (int64, error) {
	v, err := parseSensor(b)
	if err == nil && v < 0 {
		return 0, fmt.Errorf("a count of %d", v)
	}
	return v, err
}
