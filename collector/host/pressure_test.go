package host

import (
	"os"
	"testing"

	"github.com/slid-agent/slid/internal/verdict"
)

func TestPressureValues(t *testing.T) {
	r := start(t, copyOf(t, treeServer), NewPressure)
	p := r.must()
	for key, us := range map[string]float64{
		"{cpu,some}": 918273645, "{memory,some}": 1827364, "{memory,full}": 918273,
		"{io,some}": 28172635444, "{io,full}": 19182736455,
	} {
		p.want(t, "system.pressure.linux.stall_time"+key, us/1e6)
	}
	p.without(t, "irq")
	r.verdict(verdict.Active)
}

func TestPressureOfCPUHasNoFull(t *testing.T) {
	start(t, copyOf(t, treeVM), NewPressure).must().without(t, "{cpu,full}")
}

func TestPressureIRQ(t *testing.T) {
	env := copyOf(t, treeVM)
	if err := os.WriteFile(env.Proc+"/pressure/irq", []byte("full avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, env, NewPressure).must()
	p.want(t, "system.pressure.linux.stall_time{irq,full}", 2.5)
	p.without(t, "{irq,some}")
}

// TestPressureFileGoes: its series go, the others stay, and the error comes once. The file is replaced by an
// endless one, for a kept-open regular file outlives its name.
func TestPressureFileGoes(t *testing.T) {
	env := copyOf(t, treeServer)
	path := env.Proc + "/pressure/io"
	makeEndless(t, path)
	r := start(t, env, NewPressure)
	r.verdict(verdict.Degraded, path)
	p := r.must()
	p.without(t, "io")
	p.want(t, "system.pressure.linux.stall_time{cpu,some}", 918.273645)
	r.verdict(verdict.Degraded, path)

	for _, name := range []string{"cpu", "memory"} {
		r.write("proc/pressure/"+name, string(make([]byte, 5<<20)))
	}
	r.fails("pressure/cpu", "pressure/memory").without(t, "pressure")
	r.verdict(verdict.Unavailable)
	r.fails("pressure/cpu") // nothing is left: an error in every tick
	r.write("proc/pressure/cpu", "some total=7000000\n")
	r.must().want(t, "system.pressure.linux.stall_time{cpu,some}", 7)
	r.verdict(verdict.Degraded)
}

func FuzzPressure(f *testing.F) {
	f.Add(readTree(f, treeVM, "proc/pressure/memory"))
	f.Add([]byte("full avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s stalls
		if err := s.parse(b); err == nil && !s.hasSome && !s.hasFull {
			t.Fatal("nothing found, but no error")
		}
	})
}
