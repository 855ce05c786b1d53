package host

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/shirou/gopsutil/v3/host"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/procfs"
)

// Info is what describes a host and does not change while it runs.
type Info struct {
	// Resource has host.id, host.name, host.arch, host.cpu.*, os.type, os.name, os.version, os.build_id and
	// os.description, as far as they could be found.
	Resource *resource.Resource
	// Boot is when the host booted, in whole seconds: the same at every start of slid.
	Boot time.Time
}

// Facts finds out about the host whose / and /proc are seen under root and proc. It reads a handful of small files
// once, and starts no program. The error joins what could not be found; Info is good for the rest in any case.
//
// Kernel release and architecture come from gopsutil. The rest of its host.Info is not used: it runs lsb_release
// where that is installed, takes the host's id from firmware that only root may read, and its boot time moves with
// the clock.
func Facts(root, proc string) (Info, error) {
	id, idErr := machineID(root)
	boot, bootErr := bootTime(proc)
	name, nameErr := hostName(root)
	release, releaseErr := osRelease(root)
	kernel, kernelErr := host.KernelVersion()
	arch, archErr := host.KernelArch()

	var attrs []attribute.KeyValue
	add := func(key attribute.Key, value string) {
		if value != "" {
			attrs = append(attrs, key.String(text(value)))
		}
	}
	add("host.id", id)
	add("host.name", name)
	add("host.arch", archName(arch))
	cpu := processorFacts(proc)
	add("host.cpu.vendor.id", cpu["vendor_id"])
	add("host.cpu.family", cpu["cpu family"])
	add("host.cpu.model.id", cpu["model"])
	add("host.cpu.model.name", cpu["model name"])
	add("os.type", "linux")
	add("os.name", release["NAME"])
	add("os.version", release["VERSION_ID"])
	add("os.build_id", first(release["BUILD_ID"], kernel))
	add("os.description", strings.TrimPrefix(release["PRETTY_NAME"]+", Linux "+kernel, ", "))
	return Info{Resource: resource.NewSchemaless(attrs...), Boot: boot},
		errors.Join(idErr, nameErr, bootErr, releaseErr, kernelErr, archErr)
}

// first returns the first of two strings that is not empty.
func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// machineID reads machine-id(5), which stays the same until the system is installed anew.
func machineID(root string) (string, error) {
	var errs error
	for _, name := range [...]string{"etc/machine-id", "var/lib/dbus/machine-id"} {
		path := filepath.Join(root, name)
		b, err := procfs.ReadAll(path)
		id := string(bytes.TrimSpace(b))
		if err == nil && !isMachineID(id) {
			err = fmt.Errorf("%s: no machine id", path) // "uninitialized" in the first boot
		}
		if err == nil {
			return id, nil
		}
		errs = errors.Join(errs, err)
	}
	return "", errs
}

func isMachineID(id string) bool {
	return len(id) == 32 && strings.Trim(id, "0123456789abcdef") == ""
}

// hostName returns the name of the host. Seen from a container the kernel tells the name of the container, so the
// host's own file goes first there.
func hostName(root string) (string, error) {
	if filepath.Clean(root) != "/" {
		b, err := procfs.ReadAll(filepath.Join(root, "etc/hostname"))
		if err == nil {
			for line := range strings.Lines(string(b)) {
				if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
					return line, nil
				}
			}
		}
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("host name: %w", err)
	}
	return name, nil
}

// bootTime returns the time of the boot: the line btime of /proc/stat, or the clock less the time since then.
func bootTime(proc string) (time.Time, error) {
	f, err := procfs.OpenSingle(filepath.Join(proc, "stat"))
	if err != nil {
		return bootByClock(), err
	}
	b, err := f.Read()
	if err = errors.Join(err, f.Close()); err != nil {
		return bootByClock(), err
	}
	boot, err := parseBoot(b)
	if err != nil {
		return bootByClock(), parseError(f, err)
	}
	return boot, nil
}

// parseBoot reads the line btime of /proc/stat.
func parseBoot(b []byte) (time.Time, error) {
	for {
		line, rest, ok := procfs.Line(b)
		if !ok {
			return time.Time{}, errors.New("no btime")
		}
		b = rest
		key, value := procfs.Field(line)
		if string(key) != "btime" {
			continue
		}
		number, _ := procfs.Field(value)
		seconds, err := procfs.Uint(number)
		if err == nil && seconds > 1<<40 {
			err = procfs.ErrRange
		}
		if err != nil {
			return time.Time{}, fmt.Errorf("line of btime: %w", err)
		}
		return time.Unix(int64(seconds), 0), nil
	}
}

// bootByClock returns the time of the boot by CLOCK_BOOTTIME, which goes on while the host sleeps.
func bootByClock() time.Time {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Now().Truncate(time.Second) // cannot happen since Linux 2.6.39
	}
	return time.Now().Add(-time.Duration(up.Nano())).Truncate(time.Second)
}

// osRelease reads os-release(5).
func osRelease(root string) (map[string]string, error) {
	b, err := procfs.ReadAll(filepath.Join(root, "etc/os-release"))
	if err != nil {
		var again error
		if b, again = procfs.ReadAll(filepath.Join(root, "usr/lib/os-release")); again != nil {
			return nil, err
		}
	}
	return parseOSRelease(string(b)), nil
}

// parseOSRelease reads assignments as a shell would: values may be in single or double quotes, in double quotes a
// backslash takes the next character as it is.
func parseOSRelease(content string) map[string]string {
	release := map[string]string{}
	for line := range strings.Lines(content) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && key != "" && key[0] != '#' {
			release[key] = unquote(value)
		}
	}
	return release
}

func unquote(value string) string {
	if len(value) < 2 || value[0] != value[len(value)-1] || value[0] != '"' && value[0] != '\'' {
		return value
	}
	inner := value[1 : len(value)-1]
	if value[0] == '\'' || !strings.Contains(inner, `\`) {
		return inner
	}
	var b strings.Builder
	for i := 0; i < len(inner); i++ {
		if inner[i] == '\\' && i+1 < len(inner) {
			i++
		}
		b.WriteByte(inner[i])
	}
	return b.String()
}

// processorFacts reads what /proc/cpuinfo says of the first processor. Only the first page is read: on large hosts
// the file has a megabyte and is slow to make. Arm kernels do not tell a model's name.
func processorFacts(proc string) map[string]string {
	f, err := os.Open(filepath.Join(proc, "cpuinfo"))
	if err != nil {
		return nil
	}
	defer f.Close()
	page := make([]byte, 4<<10)
	n, _ := f.Read(page)
	facts := map[string]string{}
	for line := range strings.Lines(string(page[:n])) {
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			break // the end of the first processor
		}
		facts[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	return facts
}

// archName translates the kernel's name of an architecture into OpenTelemetry's.
func archName(machine string) string {
	switch machine {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	case "i386", "i486", "i586", "i686":
		return "x86"
	case "ppc64le", "ppc64":
		return "ppc64"
	case "ppc":
		return "ppc32"
	}
	if strings.HasPrefix(machine, "arm") {
		return "arm32"
	}
	return machine
}
