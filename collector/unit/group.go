package unit

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/procfs"
)

// A group is a control group that is followed. It may go and come back at its place.
type group struct {
	dir    string
	events *procfs.File // nil before it was found
}

// follow turns to the group at a directory and tells whether it has processes.
func (g *group) follow(dir string) (populated bool, err error) {
	if err := g.close(); err != nil {
		return false, err
	}
	if g.events, err = procfs.OpenSingle(filepath.Join(dir, "cgroup.events")); err != nil {
		g.events = nil
		return false, err
	}
	g.dir = dir
	return g.populated()
}

// populated tells whether the group or one below it has processes. The error is fs.ErrNotExist if there is no group.
func (g *group) populated() (bool, error) {
	if g.events == nil {
		return false, fs.ErrNotExist
	}
	b, err := g.events.Read()
	if err != nil {
		return false, err
	}
	for len(b) > 0 {
		line, rest, ok := procfs.Line(b)
		if !ok {
			break
		}
		b = rest
		key, value := procfs.Field(line)
		if value, _ = procfs.Field(value); string(key) == "populated" {
			return string(value) == "1", nil
		}
	}
	return false, fmt.Errorf("%s: %w", g.events.Path(), procfs.ErrTruncated)
}

// processes returns the processes of the group, or of those below it if it has none of its own.
func (g *group) processes() (pids []int) {
	cgroup.Walk(g.dir, func(below string) bool {
		list, err := os.ReadFile(filepath.Join(g.dir, below, "cgroup.procs"))
		if err != nil {
			return true
		}
		for line := range strings.Lines(string(list)) {
			if pid, err := strconv.Atoi(strings.TrimSuffix(line, "\n")); err == nil && pid > 0 { // 0: out of sight
				pids = append(pids, pid)
			}
		}
		return below != "/" || len(pids) == 0
	})
	return pids
}

func (g *group) close() error {
	if g.events == nil {
		return nil
	}
	err := g.events.Close()
	g.events = nil
	return err
}
