package host

import (
	"testing"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/internal/verdict"
)

func TestSensorsEDAC(t *testing.T) {
	r := startSensors(t, sensorsServer)
	p := r.collectValues()
	p.want(t, "hw.errors[mc0] corrected", 1)
	p.want(t, "hw.errors[mc0] uncorrected", 0)
	p.want(t, "hw.errors[mc0/dimm0] corrected", 7)
	p.want(t, "hw.errors[mc0/dimm0] uncorrected", 0)
	p.want(t, "hw.errors[mc0/dimm3] corrected", 0)
	p.want(t, "hw.errors[mc0/dimm3] uncorrected", 1)
	p.without(t, "csrow")
	if got := p["hw.errors[mc0/dimm0] corrected"].start; !got.Equal(boot) {
		t.Errorf("counts from %v, want boot", got)
	}
	if got := r.attributes("hw.errors", "mc0/dimm0"); got.Encoded(attribute.DefaultEncoder()) !=
		"error.type=corrected,hw.id=mc0/dimm0,hw.name=CPU_SrcID#0_MC#0_Chan#0_DIMM#0,hw.parent=mc0,hw.type=memory" {
		t.Error(got.Encoded(attribute.DefaultEncoder()))
	}
	r.wantRow("host/sensors/edac", verdict.Active)
	r.write("sys/devices/system/edac/mc/mc0/dimm0/dimm_ce_count", "9\n")
	r.collectValues().want(t, "hw.errors[mc0/dimm0] corrected", 9)
	r.write("sys/devices/system/edac/mc/mc0/dimm0/dimm_ce_count", "2\n") // reset_counters
	p = r.collectValues()
	p.want(t, "hw.errors[mc0/dimm0] corrected", 2)
	if got := p["hw.errors[mc0/dimm0] corrected"].start; !got.Equal(tick(1)) {
		t.Errorf("counts from %v, want the last reading before the reset %v", got, tick(1))
	}
}

// TestSensorsEDACRows: before modules were counted there were rows and channels, and not every file of them.
func TestSensorsEDACRows(t *testing.T) {
	r := startSensors(t, sensorsOld)
	p := r.collectValues()
	p.exactly(t, "hw.errors", map[string]float64{
		"[mc0] corrected": 0, "[mc0] uncorrected": 2, "[mc0/csrow0] uncorrected": 1,
		"[mc0/csrow0/ch0] corrected": 2, "[mc0/csrow0/ch1] corrected": 3, "[mc0/csrow1] corrected": 0,
	})
	set := r.attributes("hw.errors", "mc0/csrow0/ch1")
	if v, _ := set.Value("hw.name"); v.AsString() != "DIMM_A2" {
		t.Errorf("named %q", v.AsString())
	}
	r.wantRow("host/sensors/edac", verdict.Active)
}
