// Command slid measures the service levels of everything that runs on a host, the host itself and the latencies of
// its kernel. It prints them (slid sli) or ships them over OTLP (slid run).
//
// This package knows all others and joins them: tables.go has the lists of commands' parts (collectors, formats),
// open.go opens what a command needs, and each command has a file of its own. Data goes to stdout, everything else to
// stderr.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
)

// version is set by the linker (see the Makefile).
var version = "dev"

// Exit statuses beside 0 and 1.
const (
	exitUsage  = 2  // the command line is wrong
	exitConfig = 78 // EX_CONFIG of sysexits.h: the configuration is wrong
)

func main() {
	os.Exit(execute(context.Background(), terminal{stdout: os.Stdout, stderr: os.Stderr}, os.Args[1:]))
}

// execute runs the command named by the first argument and returns the exit status.
func execute(ctx context.Context, t terminal, args []string) int {
	err := dispatch(ctx, t, args)
	if err == nil {
		return 0
	}
	if _, ok := errors.AsType[*configError](err); ok {
		fmt.Fprintln(t.stderr, err) // each line names its file
		return exitConfig
	}
	if e, ok := errors.AsType[*statusError](err); ok {
		if e.err != nil {
			fmt.Fprintln(t.stderr, "slid:", e.err)
		}
		return e.status
	}
	fmt.Fprintln(t.stderr, "slid:", err)
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	return 1
}

// dispatch finds the command, reads its flags and runs it.
func dispatch(ctx context.Context, t terminal, args []string) error {
	name, args := commandName(args)
	c, err := findCommand(name)
	if err != nil {
		return err
	}
	flags := flag.NewFlagSet(c.name, flag.ContinueOnError)
	action := c.setup(flags)
	operands, err := c.parse(flags, args)
	if errors.Is(err, flag.ErrHelp) {
		return c.help(t.stdout)
	}
	if err != nil {
		return err
	}
	return action(ctx, t, operands)
}
