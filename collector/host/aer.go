package host

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"

	"github.com/slid-agent/slid/internal/procfs"
)

// findAER finds out what a device of /sys/bus/pci/devices has: totals of PCI Express advanced error reporting
// (Documentation/ABI/testing/sysfs-bus-pci-devices-aer_stats). Virtual functions of a device are left out: there may be
// hundreds, and their errors are those of the link that they share.
func findAER(c *sensorChip) error {
	if _, err := os.Lstat(filepath.Join(c.dir, "physfn")); err == nil {
		return nil
	}
	c.id = text(c.entry)
	if path, err := filepath.EvalSymlinks(c.dir); err == nil {
		c.parent = text(filepath.Base(filepath.Dir(path)))
	}
	class := c.text("class")
	name := c.id
	if driver, err := os.Readlink(filepath.Join(c.dir, "driver")); err == nil {
		name = text(filepath.Base(driver)) + " " + c.id
	}
	for _, kind := range [...]string{"correctable", "nonfatal", "fatal"} {
		file := "aer_dev_" + kind
		if c.text(file) != "" {
			c.addErrors("", name, pciKind(class), kind, c.add(file, parseAER))
		}
	}
	return nil
}

// parseAER returns the total of a file that has a line for each kind of error and one for all of them, such as
// TOTAL_ERR_COR 5.
func parseAER(b []byte) (int64, error) {
	for len(b) > 0 {
		line, rest, ok := procfs.Line(b)
		if !ok {
			return 0, procfs.ErrTruncated
		}
		b = rest
		name, value := procfs.Field(line)
		if !bytes.HasPrefix(name, []byte("TOTAL_ERR_")) {
			continue
		}
		number, rest := procfs.Field(value)
		if more, _ := procfs.Field(rest); len(more) > 0 {
			return 0, procfs.ErrSyntax
		}
		return parseCount(number)
	}
	return 0, errNoTotal
}

var errNoTotal = errors.New("no line of the total")
