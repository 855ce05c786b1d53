package host

import (
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/procfs"
)

// A cgroupFile is a file that each group of a hierarchy may have.
type cgroupFile struct {
	name  string
	tree  int  // index of the hierarchy
	limit bool // changes seldom: read in turns
	own   bool // of no use for a slice, whose series are what is left of others
	parse func(s *cgroupSample, b []byte) error
}

// v2Files returns the files of a cgroup2 hierarchy (Documentation/admin-guide/cgroup-v2.rst) for the controllers
// that no version 1 hierarchy has.
func v2Files(tree int, v1 func(controller string) bool) []cgroupFile {
	files := []cgroupFile{
		{name: "cpu.pressure", own: true, parse: func(s *cgroupSample, b []byte) error {
			return parsePressure(s, b, cgStallCPUSome, cgStallCPUFull)
		}},
		{name: "memory.pressure", own: true, parse: func(s *cgroupSample, b []byte) error {
			return parsePressure(s, b, cgStallMemorySome, cgStallMemoryFull)
		}},
		{name: "io.pressure", own: true, parse: func(s *cgroupSample, b []byte) error {
			return parsePressure(s, b, cgStallIOSome, cgStallIOFull)
		}},
	}
	if !v1("cpuacct") {
		files = append(files, cgroupFile{name: "cpu.stat", parse: keyedCgroupFile(v2CPUStat)})
	}
	if !v1("cpu") {
		files = append(files, cgroupFile{name: "cpu.max", limit: true, parse: parseCPUMax})
	}
	if !v1("memory") {
		files = append(files, cgroupFile{name: "memory.current", parse: amountCgroupFile(cgUsage)},
			cgroupFile{name: "memory.stat", parse: keyedCgroupFile(v2MemoryStat)},
			cgroupFile{name: "memory.events", parse: keyedCgroupFile(v2MemoryEvents)},
			cgroupFile{name: "memory.swap.current", parse: amountCgroupFile(cgSwap)},
			cgroupFile{name: "memory.max", limit: true, parse: limitCgroupFile(cgMemoryLimit)})
	}
	if !v1("blkio") {
		files = append(files, cgroupFile{name: "io.stat", parse: parseIOStat})
	}
	if !v1("pids") {
		files = append(files, cgroupFile{name: "pids.current", parse: amountCgroupFile(cgTasks)},
			cgroupFile{name: "pids.max", limit: true, parse: limitCgroupFile(cgTaskLimit)})
	}
	for i := range files {
		files[i].tree = tree
	}
	return files
}

// keyedCgroupFile returns the parser of a flat keyed file.
func keyedCgroupFile(each func(*cgroupSample, []byte, uint64)) func(*cgroupSample, []byte) error {
	return func(s *cgroupSample, b []byte) error { return parseFlatKeyed(b, each, s) }
}

// amountCgroupFile returns the parser of a file with one amount.
func amountCgroupFile(place int) func(*cgroupSample, []byte) error {
	return func(s *cgroupSample, b []byte) error {
		v, err := cgroupNumber(b)
		if err == nil {
			s.put(place, v)
		}
		return err
	}
}

// limitCgroupFile returns the parser of a file with one limit.
func limitCgroupFile(place int) func(*cgroupSample, []byte) error {
	return func(s *cgroupSample, b []byte) error {
		v, err := cgroupNumber(b)
		if err == nil {
			s.limit[place] = v
		}
		return err
	}
}

func v2CPUStat(s *cgroupSample, key []byte, v uint64) {
	const us = 1000
	switch string(key) {
	case "user_usec":
		s.count(cgUser, v*us)
	case "system_usec":
		s.count(cgSystem, v*us)
	case "nr_periods":
		s.count(cgPeriods, v)
	case "nr_throttled":
		s.count(cgThrottled, v)
	case "throttled_usec":
		s.count(cgThrottledTime, v*us)
	}
}

func v2MemoryStat(s *cgroupSample, key []byte, v uint64) {
	switch string(key) {
	case "anon":
		s.put(cgRSS, v)
	case "inactive_file":
		s.put(cgInactiveFile, v)
	case "pgfault":
		s.count(cgMinorFaults, v) // all faults, until the major ones are known
	case "pgmajfault":
		s.count(cgMajorFaults, v)
	}
}

func v2MemoryEvents(s *cgroupSample, key []byte, v uint64) {
	switch string(key) {
	case "high":
		s.count(cgHigh, v)
	case "max":
		s.count(cgMax, v)
	case "oom_kill":
		s.count(cgOOMKills, v)
	}
}

// parseCPUMax reads "max 100000" or "50000 100000".
func parseCPUMax(s *cgroupSample, b []byte) error {
	line, _, ok := procfs.Line(b)
	if !ok {
		return procfs.ErrTruncated
	}
	first, line := procfs.Field(line)
	second, _ := procfs.Field(line)
	quota, err := cgroupLimit(first)
	if err != nil {
		return err
	}
	period, err := procfs.Uint(second)
	if err == nil {
		s.limit[cgCPULimit] = milliCPUs(quota, period)
	}
	return err
}

// cgroupFilesOf returns the files to be read of all hierarchies.
func cgroupFilesOf(trees []cgroup.Hierarchy) []cgroupFile {
	v1 := func(controller string) bool {
		for _, h := range trees {
			if h.Has(controller) {
				return true
			}
		}
		return false
	}
	var files []cgroupFile
	for i, h := range trees {
		if h.V2 {
			files = append(files, v2Files(i, v1)...)
		} else {
			files = append(files, v1Files(i, h)...)
		}
	}
	return files
}
