package unit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/procfs"
	"github.com/slid-agent/slid/internal/slo"
)

// A process is one that is followed. Its number and its start tell it from all others.
type process struct {
	pid     int // 0: none was found yet
	started uint64
	stat    *procfs.File // nil if it is gone
}

// status is what slid takes from /proc/PID/stat.
type status struct {
	command []byte
	dead    bool   // it has ended, and waits for its parent
	started uint64 // in ticks of the clock since the boot
}

// parse reads a line "pid (command) state ..." (proc_pid_stat(5)); the start is its 22nd field. A command may have any
// bytes, parentheses too.
func (s *status) parse(b []byte) error {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return procfs.ErrTruncated
	}
	s.command = b[open+1 : end]
	var field []byte
	for n, rest := 3, b[end+1:]; n <= 22; n++ {
		if field, rest = procfs.Field(rest); n == 3 {
			s.dead = string(field) == "Z" || string(field) == "X"
		}
	}
	var err error
	s.started, err = procfs.Uint(field)
	return err
}

// alive tells whether the process still runs, under the command if one is given.
func (p *process) alive(command string) bool {
	if p.stat == nil {
		return false
	}
	var s status
	b, err := p.stat.Read()
	return err == nil && s.parse(b) == nil && !s.dead && s.started == p.started && (command == "" || string(s.command) == command)
}

// replace turns to another process and tells whether it followed on one. One without a number leaves things as they are.
func (p *process) replace(by process) (restarted bool) {
	if by.pid == 0 {
		return false
	}
	restarted = p.pid != 0 && (p.pid != by.pid || p.started != by.started)
	_ = p.close() // what it was, has ended
	*p = by
	return restarted
}

func (p *process) close() error {
	if p.stat == nil {
		return nil
	}
	err := p.stat.Close()
	p.stat = nil
	return err
}

// oldest returns the process of the list that started first, of the command if one is given. Its pid is 0 if there is none.
func oldest(proc string, list []int, command string) (first process) {
	for _, pid := range list {
		f, err := procfs.OpenSingle(filepath.Join(proc, strconv.Itoa(pid), "stat"))
		if err != nil {
			continue // it has ended
		}
		p := process{pid: pid, stat: f}
		var s status
		b, err := f.Read()
		if err == nil && s.parse(b) == nil && (first.pid == 0 || s.started < first.started) {
			p.started = s.started
			if p.alive(command) {
				p, first = first, p
			}
		}
		_ = p.close() // the one that is not taken
	}
	return first
}

var errHidden = errors.New("the processes of others are hidden")

// findProgram returns the processes of a command, and of a unit and a container if they are given.
func findProgram(proc string, r slo.Running) (pids []int, err error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(proc, "1", "stat")); err != nil {
		return nil, errHidden
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		comm, err := os.ReadFile(filepath.Join(proc, e.Name(), "comm"))
		if err != nil || strings.TrimSuffix(string(comm), "\n") != r.Command {
			continue
		}
		if r.Unit != "" || r.Container != "" {
			data, err := os.ReadFile(filepath.Join(proc, e.Name(), "cgroup"))
			owner := cgroup.ParseProc(string(data))
			if err != nil || r.Unit != "" && owner.Unit != r.Unit || !strings.HasPrefix(owner.Container, r.Container) {
				continue
			}
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
