package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// terminal is where a command writes: data to stdout, all else to stderr.
type terminal struct{ stdout, stderr *os.File }

// width returns the columns of a terminal, or 0 if f is none.
func width(f *os.File) int {
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

// interactive says whether a person watches f and sees control sequences obeyed.
func interactive(f *os.File) bool {
	return term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// colored says whether f may have colors (https://no-color.org).
func colored(f *os.File) bool { return interactive(f) && os.Getenv("NO_COLOR") == "" }

// quiet returns a logger for commands that print a result: what is degraded stands in that.
func (t terminal) quiet() *slog.Logger {
	return slog.New(slog.NewTextHandler(t.stderr, &slog.HandlerOptions{Level: slog.LevelError}))
}

// untilSignal returns a context that ends at the first SIGINT or SIGTERM. The second one has its usual effect: it ends
// the process at once.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, unix.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
