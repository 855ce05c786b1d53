package cgroup

import (
	"path/filepath"
	"slices"
	"strings"
)

// A Hierarchy is a mounted tree of control groups.
type Hierarchy struct {
	Dir         string   // where its root is
	V2          bool     // cgroup2: one tree for all controllers
	Controllers []string // version 1 only: e.g. cpu and cpuacct
}

// Has says whether a version 1 hierarchy has the controller.
func (h Hierarchy) Has(controller string) bool { return slices.Contains(h.Controllers, controller) }

// v1Controllers are the names that the super options of a version 1 mount may give, as far as slid knows them.
func v1Controllers() []string { return []string{"cpu", "cpuacct", "memory", "blkio", "pids"} }

// ParseMounts reads the hierarchies from /proc/PID/mountinfo (proc_pid_mountinfo(5)); root stands before the mount
// points. A hierarchy that is mounted several times is returned once, by its first mount; those without a controller
// that slid knows are left out.
func ParseMounts(mountinfo, root string) []Hierarchy {
	var list []Hierarchy
	seen := map[string]bool{}
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		fields, super := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(super) < 3 {
			continue
		}
		h := Hierarchy{Dir: filepath.Join(root, unescapeMount(fields[4]))}
		switch super[0] {
		case "cgroup2":
			h.V2 = true
		case "cgroup":
			h.Controllers = known(strings.Split(super[2], ","))
		}
		key := super[0] + strings.Join(h.Controllers, ",")
		if !h.V2 && h.Controllers == nil || seen[key] {
			continue
		}
		seen[key] = true
		list = append(list, h)
	}
	return list
}

// known returns the controllers among the options.
func known(options []string) (list []string) {
	for _, name := range v1Controllers() {
		if slices.Contains(options, name) {
			list = append(list, name)
		}
	}
	return list
}

// unescapeMount undoes the octal escapes of mountinfo: blank, tab, newline and backslash.
func unescapeMount(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}
