package main

import (
	"os"
	"runtime"
	"runtime/debug"
)

const (
	// gcPercent halves the garbage that piles up between collections. The steady state makes little, so that a
	// collection is seldom, and the live heap of some megabytes is scanned in a few milliseconds.
	gcPercent = 50
	// maxProcs bounds the threads that run Go code at once: the work of a tick is milliseconds. A second one costs a
	// sixth more CPU on an idle host, by waking up; with a hundred, the runtime's caches would be most of the memory.
	maxProcs = 1
	// memoryBase and memoryPerDestination make the soft limit of the runtime's memory. It is above what a full
	// queue needs (16 MiB per destination), so that it acts only against bursts of garbage; a limit below the live
	// heap would only burn CPU.
	memoryBase           = 48 << 20
	memoryPerDestination = 32 << 20
)

// limitMemory makes the Go runtime modest. What the user set in GOGC, GOMEMLIMIT or GOMAXPROCS stays.
func limitMemory(destinations int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryBase + int64(destinations)*memoryPerDestination)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(min(maxProcs, runtime.NumCPU()))
	}
}
