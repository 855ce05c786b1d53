package cgroup

import (
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// Accounted says whether a group, given by its path below the root, has figures of its own: it names a unit or a
// container, or it is a slice right below the root, or the root, whose figures are what is left in it. What is below it
// belongs to it, unless it has figures of its own.
func Accounted(path string) bool {
	return strings.Count(path, "/") <= 1 || Named(path)
}

// Named says whether the last element of a path names a unit or a container.
func Named(group string) bool { return Names(path.Base(group)) }

// ServiceAt describes whose figures those of a group are; command is the name of the first process of a container. A
// group that names neither unit nor container is what is left: its name is other, and its path tells it apart.
func ServiceAt(group, command string) Service {
	if !Named(group) {
		s := Service{Name: "other", Path: group}
		if group == "" {
			s.Path = "/"
		}
		if base := path.Base(group); strings.HasSuffix(base, ".slice") {
			s.Unit = base
		}
		return s
	}
	g := Describe(group)
	if g.Container == "" {
		command = ""
	}
	return Service{
		Name: printable(DefaultName(g.Unit, g.Container, command)), Unit: printable(g.Unit), Container: g.Container,
		Runtime: g.Runtime, Pod: g.Pod, QoS: g.QoS,
	}
}

func printable(name string) string { return strings.ToValidUTF8(name, "?") }

// FirstCommand returns the name of the process with the lowest number in the group at dir, or "" if there is none, it
// cannot be seen, or it is still that of the container's runtime. proc is where /proc is seen.
func FirstCommand(proc, dir string) string {
	list, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return ""
	}
	first := uint64(0)
	for line := range strings.Lines(string(list)) {
		pid, err := strconv.ParseUint(strings.TrimSuffix(line, "\n"), 10, 32)
		if err == nil && pid != 0 && (first == 0 || pid < first) { // 0 stands for processes out of sight
			first = pid
		}
	}
	if first == 0 {
		return ""
	}
	comm, _ := os.ReadFile(filepath.Join(proc, strconv.FormatUint(first, 10), "comm"))
	name := strings.TrimSuffix(string(comm), "\n")
	if strings.HasPrefix(name, "runc:") || strings.HasPrefix(name, "crun") {
		return ""
	}
	return printable(name)
}
