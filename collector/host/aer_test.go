package host

import (
	"strconv"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/internal/verdict"
)

func TestSensorsAER(t *testing.T) {
	r := startSensors(t, sensorsServer)
	p := r.collectValues()
	for key, v := range map[string]float64{
		"[0000:00:02.1] correctable": 3, "[0000:00:02.1] nonfatal": 0, "[0000:00:02.1] fatal": 0,
		"[0000:01:00.0] correctable": 0, "[0000:01:00.0] nonfatal": 2, "[0000:01:00.0] fatal": 0,
		"[0000:00:17.0] correctable": 0,
	} {
		p.want(t, "hw.errors"+key, v)
	}
	p.without(t, "0000:05:00.1") // a virtual function
	p.without(t, "0000:00:1f.4") // has none
	if got := r.attributes("hw.errors", "0000:01:00.0"); got.Encoded(attribute.DefaultEncoder()) !=
		"error.type=correctable,hw.id=0000:01:00.0,hw.name=nvme 0000:01:00.0,hw.parent=0000:00:02.1,hw.type=physical_disk" {
		t.Error(got.Encoded(attribute.DefaultEncoder()))
	}
	r.wantRow("host/sensors/aer", verdict.Active)
	// A device that is plugged in counts from the previous reading, when it was not there.
	plantSensorLines(t, r.env.Root, `
sys/bus/pci/devices/0000:09:00.0/class = 0x020000\n
sys/bus/pci/devices/0000:09:00.0/aer_dev_fatal = TOTAL_ERR_FATAL 1\n`)
	p = r.collectValues()
	p.want(t, "hw.errors[0000:09:00.0] fatal", 1)
	if got := p["hw.errors[0000:09:00.0] fatal"].start; !got.Equal(tick(0)) {
		t.Errorf("counts from %v, want %v", got, tick(0))
	}
}

func FuzzSensorAER(f *testing.F) {
	f.Add([]byte("RxErr 1\nBadTLP 2\nTOTAL_ERR_COR 3\n"))
	f.Add([]byte("TOTAL_ERR_FATAL -1\n"))
	f.Add([]byte("TOTAL_ERR_FATAL 1 2\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := parseAER(b)
		if err != nil {
			return
		}
		for line := range strings.Lines(string(b)) {
			fields := strings.Fields(line)
			if len(fields) != 2 || !strings.HasPrefix(fields[0], "TOTAL_ERR_") {
				continue
			}
			if want, err := strconv.ParseInt(fields[1], 10, 64); err == nil && want == v {
				return
			}
		}
		t.Errorf("%q is read as %d", b, v)
	})
}
