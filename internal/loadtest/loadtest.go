// Package loadtest runs a test's own program once more, as a process of its own that does what it is told: a load in a control
// group, or servers with more open files than one process may have. An order is a line to its standard input, the answer
// a line from its standard output.
//
// The program runs one test, by name, which finds out from an environment variable that it is the load and obeys until its
// input ends.
package loadtest

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// A Load is a running process.
type Load struct {
	*exec.Cmd
	tb  testing.TB
	in  io.WriteCloser
	out *bufio.Reader
}

// Start runs the test of a name until the present one ends, with an environment variable ("NAME=value") and in a control group,
// given by a descriptor of its folder, from the start on; a negative one leaves it where the present process is.
func Start(tb testing.TB, test, variable string, group int) *Load {
	tb.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+test+"$")
	cmd.Env = append(os.Environ(), variable, "GOGC=off")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: group >= 0, CgroupFD: max(group, 0)}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	l := &Load{cmd, tb, in, bufio.NewReader(out)}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = l.End() // it was killed, or ended before
	})
	return l
}

// Ask gives an order and returns the answer. The error says that the load has ended.
func (l *Load) Ask(order string) (string, error) {
	if _, err := io.WriteString(l.in, order+"\n"); err != nil {
		return "", err
	}
	return l.Answer()
}

// Answer returns the next line that the load prints.
func (l *Load) Answer() (string, error) {
	line, err := l.out.ReadString('\n')
	if err != nil {
		return line, err
	}
	return line[:len(line)-1], nil
}

// Report gives an order whose answer is JSON.
func (l *Load) Report(order string, into any) {
	l.tb.Helper()
	answer, err := l.Ask(order)
	if err == nil {
		err = json.Unmarshal([]byte(answer), into)
	}
	if err != nil {
		l.tb.Fatalf("the load answers %q: %v", answer, err)
	}
}

// End ends the input of the load, and returns how the load ends.
func (l *Load) End() error {
	_ = l.in.Close()
	_, _ = io.Copy(io.Discard, l.out)
	return l.Wait()
}
