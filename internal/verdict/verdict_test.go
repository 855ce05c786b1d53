package verdict

import (
	"errors"
	"fmt"
	"testing"
)

func TestFromError(t *testing.T) {
	cause := errors.New("no such file")
	for _, tt := range []struct {
		err  error
		want Verdict
	}{
		{cause, Verdict{Reason: "no such file"}},
		{&UnavailableError{Reason: "no chips"}, Verdict{Reason: "no chips", Absent: true}},
		{fmt.Errorf("open: %w", &UnavailableError{Reason: "no chips"}), Verdict{Reason: "no chips", Absent: true}},
		{&UnavailableError{Reason: "hidden", Err: cause}, Verdict{Reason: "hidden: no such file"}},
		{&UnavailableError{Reason: "off", Missing: "psi=1"}, Verdict{Reason: "off", Missing: "psi=1"}},
	} {
		tt.want.Name, tt.want.State = "x", Unavailable
		if got := FromError("x", tt.err); got != tt.want {
			t.Errorf("%v: %+v, want %+v", tt.err, got, tt.want)
		}
	}
}
