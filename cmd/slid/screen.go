package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/slid-agent/slid/exporter/text"
)

// What a terminal is told: ECMA-48, and xterm's private modes for the second screen and the cursor, which every
// terminal emulator knows.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	goHome      = "\x1b[H"
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"
)

// A screen shows one report after the other: in place on a terminal, else one below the other.
type screen struct {
	out    *os.File
	live   bool
	before *unix.Termios // how the keyboard was; nil: as it is
	cancel context.CancelFunc
}

// openScreen takes the terminal over, if there is one. The context ends with the given one or when q is pressed.
func openScreen(ctx context.Context, t terminal) (*screen, context.Context, error) {
	s := &screen{out: t.stdout, live: interactive(t.stdout)}
	ctx, s.cancel = context.WithCancel(ctx)
	if !s.live {
		return s, ctx, nil
	}
	if _, err := s.out.WriteString(enterScreen); err != nil {
		s.cancel()
		return nil, nil, fmt.Errorf("write to the terminal: %w", err)
	}
	s.watchKeys()
	return s, ctx, nil
}

// watchKeys ends the context when q is pressed. Keys come at once and are not shown; Ctrl-C stays a signal.
func (s *screen) watchKeys() {
	in := int(os.Stdin.Fd())
	if !term.IsTerminal(in) {
		return
	}
	before, err := unix.IoctlGetTermios(in, unix.TCGETS)
	if err != nil {
		return
	}
	keys := *before
	keys.Lflag &^= unix.ICANON | unix.ECHO
	keys.Cc[unix.VMIN], keys.Cc[unix.VTIME] = 1, 0
	if unix.IoctlSetTermios(in, unix.TCSETS, &keys) != nil {
		return
	}
	s.before = before
	go func() { // it ends with the process: a read of a terminal cannot be called off
		var key [1]byte
		for {
			if n, err := os.Stdin.Read(key[:]); n == 0 || err != nil {
				return
			}
			if key[0] == 'q' || key[0] == 'Q' {
				s.cancel()
				return
			}
		}
	}()
}

// show writes a report and below it a note.
func (s *screen) show(r *text.Report, note string) error {
	columns, rows := 0, 0
	if s.live {
		columns, rows, _ = term.GetSize(int(s.out.Fd())) // 0, 0 if it does not say
	}
	lines := r.Screen(text.Options{Width: columns, Color: colored(s.out)}, max(rows-2, 0))
	var b strings.Builder
	if !s.live {
		_, err := s.out.WriteString(strings.Join(lines, "\n") + "\n" + note + "\n\n")
		return err
	}
	b.WriteString(goHome)
	for _, line := range lines {
		b.WriteString(line + clearLine + "\n")
	}
	note += "; q ends"
	if columns > 0 && len(note) >= columns {
		note = note[:columns-1]
	}
	b.WriteString(note + clearLine + clearBelow)
	_, err := s.out.WriteString(b.String())
	return err
}

// close gives the terminal back as it was.
func (s *screen) close() {
	s.cancel()
	if !s.live {
		return
	}
	if s.before != nil {
		_ = unix.IoctlSetTermios(int(os.Stdin.Fd()), unix.TCSETS, s.before)
	}
	_, _ = s.out.WriteString(leaveScreen)
}
