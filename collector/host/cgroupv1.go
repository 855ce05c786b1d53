package host

import "github.com/slid-agent/slid/internal/cgroup"

// v1Files returns the files of a version 1 hierarchy (Documentation/admin-guide/cgroup-v1). All are for the group
// and those below it, but for the kills and throttling, which version 1 counts for the group alone.
func v1Files(tree int, h cgroup.Hierarchy) []cgroupFile {
	var files []cgroupFile
	if h.Has("cpuacct") {
		files = append(files, cgroupFile{name: "cpuacct.usage", parse: func(s *cgroupSample, b []byte) (err error) {
			s.used, err = cgroupNumber(b)
			s.hasUsed = err == nil
			return err
		}}, cgroupFile{name: "cpuacct.stat", parse: keyedCgroupFile(v1CPUAcct)})
	}
	if h.Has("cpu") {
		files = append(files, cgroupFile{name: "cpu.stat", own: true, parse: keyedCgroupFile(v1CPUStat)},
			cgroupFile{name: "cpu.cfs_quota_us", limit: true, parse: func(s *cgroupSample, b []byte) (err error) {
				s.quota, err = cgroupNumber(b)
				return err
			}},
			cgroupFile{name: "cpu.cfs_period_us", limit: true, parse: func(s *cgroupSample, b []byte) (err error) {
				s.period, err = cgroupNumber(b)
				s.limit[cgCPULimit] = milliCPUs(s.quota, s.period)
				return err
			}})
	}
	if h.Has("memory") {
		files = append(files, cgroupFile{name: "memory.usage_in_bytes", parse: amountCgroupFile(cgUsage)},
			cgroupFile{name: "memory.stat", parse: keyedCgroupFile(v1MemoryStat)},
			cgroupFile{name: "memory.oom_control", own: true, parse: keyedCgroupFile(v1OOMControl)},
			cgroupFile{name: "memory.failcnt", own: true, parse: func(s *cgroupSample, b []byte) error {
				v, err := cgroupNumber(b)
				s.count(cgMax, v)
				return err
			}},
			cgroupFile{name: "memory.limit_in_bytes", limit: true, parse: limitCgroupFile(cgMemoryLimit)})
	}
	if h.Has("blkio") {
		files = append(files,
			cgroupFile{name: "blkio.throttle.io_service_bytes_recursive", parse: func(s *cgroupSample, b []byte) error {
				return parseBlkio(s, b, ioReadBytes, ioWriteBytes)
			}},
			cgroupFile{name: "blkio.throttle.io_serviced_recursive", parse: func(s *cgroupSample, b []byte) error {
				return parseBlkio(s, b, ioReads, ioWrites)
			}})
	}
	if h.Has("pids") {
		files = append(files, cgroupFile{name: "pids.current", parse: amountCgroupFile(cgTasks)},
			cgroupFile{name: "pids.max", limit: true, parse: limitCgroupFile(cgTaskLimit)})
	}
	for i := range files {
		files[i].tree = tree
	}
	return files
}

// v1CPUAcct reads cpuacct.stat, in hundredths of a second (USER_HZ on every architecture that slid runs on).
func v1CPUAcct(s *cgroupSample, key []byte, v uint64) {
	const tick = 1e7
	switch string(key) {
	case "user":
		s.count(cgUser, v*tick)
	case "system":
		s.count(cgSystem, v*tick)
	}
}

func v1CPUStat(s *cgroupSample, key []byte, v uint64) {
	switch string(key) {
	case "nr_periods":
		s.count(cgPeriods, v)
	case "nr_throttled":
		s.count(cgThrottled, v)
	case "throttled_time":
		s.count(cgThrottledTime, v)
	}
}

func v1MemoryStat(s *cgroupSample, key []byte, v uint64) {
	switch string(key) {
	case "total_rss":
		s.put(cgRSS, v)
	case "total_inactive_file":
		s.put(cgInactiveFile, v)
	case "total_swap":
		s.put(cgSwap, v)
	case "total_pgfault":
		s.count(cgMinorFaults, v)
	case "total_pgmajfault":
		s.count(cgMajorFaults, v)
	case "hierarchical_memory_limit":
		s.kernelLimit = v
	}
}

func v1OOMControl(s *cgroupSample, key []byte, v uint64) {
	if string(key) == "oom_kill" {
		s.count(cgOOMKills, v)
	}
}

// finish works out what the files give together.
func (s *cgroupSample) finish() {
	if s.hasUsed {
		// The total is exact and the split may be sampled: what is not system time is user time.
		system := min(s.counter[cgSystem], s.used)
		s.count(cgSystem, system)
		s.count(cgUser, s.used-system)
	}
	if s.hasCounter[cgMinorFaults] {
		s.counter[cgMinorFaults] -= min(s.counter[cgMajorFaults], s.counter[cgMinorFaults])
	}
	if s.hasAmount[cgUsage] && s.hasAmount[cgInactiveFile] {
		s.put(cgWorkingSet, s.amount[cgUsage]-min(s.amount[cgInactiveFile], s.amount[cgUsage]))
	}
}
