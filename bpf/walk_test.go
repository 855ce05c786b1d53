package bpf

import (
	"strings"
	"testing"
	"time"

	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

// eachWalk runs a test for each way to walk that the kernel has: the other tests take the first.
func eachWalk(t *testing.T, test func(*testing.T, *Kernel)) {
	t.Helper()
	testneed.Root(t, "to load BPF programs")
	ways := []walking{walkFiles}
	if (&Kernel{}).walking() == walkStorage {
		ways = append(ways, walkStorage)
	}
	for _, w := range ways {
		t.Run(w.String(), func(t *testing.T) { test(t, &Kernel{walks: w}) })
	}
}

func TestWalksFindOpenConnections(t *testing.T) {
	eachWalk(t, func(t *testing.T, k *Kernel) {
		r := newTCPRig(t, false)
		r.openOn(k, r.netns())
		client, server := r.pair(tcpLocal)
		client.send(12345, server)
		r.is("bytes before", r.counts().Sent[TCPLoopback], 0)
		r.must(r.Sweep())
		r.is("bytes", r.counts().Sent[TCPLoopback], 12345)
		r.must(r.Sweep())
		r.is("bytes after another", r.counts().Sent[TCPLoopback], 12345)
	})
}

func TestWalksFindQuietResponses(t *testing.T) {
	mount, err := cgroup.Mount("/")
	if err != nil {
		t.Skip(err)
	}
	eachWalk(t, func(t *testing.T, k *Kernel) {
		h := openHTTPOn(t, k, HTTPOptions{Cgroup: mount})
		c := connect(t, "127.0.0.1")
		c.request(get)
		c.answer(ok)
		time.Sleep(1100 * time.Millisecond)
		if err := h.Flush(); err != nil {
			t.Fatal(err)
		}
		checkCount(t, h, c.port, counted{Codes: map[int]uint64{200: 1}, HTTP: 1, FirstBytes: 1, Durations: 1})
	})
}

func TestWalkOverFilesIsDegraded(t *testing.T) {
	v := verdict.Verdict{State: verdict.Active, Hook: "tp_btf/x"}
	if got := walkStorage.qualify(v); got != v {
		t.Errorf("got %+v", got)
	}
	v.Reason = "something is missing"
	got := walkFiles.qualify(v)
	if got.State != verdict.Degraded || got.Hook != "tp_btf/x, iter/task_file" ||
		!strings.HasPrefix(got.Reason, "something is missing; this kernel refuses") {
		t.Errorf("got %+v", got)
	}
}
