package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"
)

// A command is one word after slid.
type command struct {
	name     string
	summary  string // one line for the list of commands
	about    string // what a user should know, in whole sentences
	operands string // what may follow the flags, for the usage line
	most     int    // operands there may be
	// setup declares the flags and returns what to do once they are set.
	setup func(*flag.FlagSet) action
}

// An action is a command at work. It gets the operands that follow the flags.
type action func(ctx context.Context, t terminal, operands []string) error

// commands returns all commands in the order of the help text.
func commands() []command {
	return []command{
		sliCommand(), topCommand(), checkCommand(), runCommand(), doctorCommand(), validateCommand(), rulesCommand(), versionCommand(), helpCommand(),
	}
}

// A usageError is a mistake on the command line.
type usageError struct {
	what    string
	command string // whose help is worth reading; empty for the list of commands
}

func (e *usageError) Error() string {
	return e.what + "; see slid help" + strings.TrimRight(" "+e.command, " ")
}

// commandName splits the arguments into the name of the command and the rest. Flags that people try without a command
// stand for one.
func commandName(args []string) (name string, rest []string) {
	if len(args) == 0 {
		return "", nil
	}
	switch args[0] {
	case "-h", "-help", "--help":
		return "help", args[1:]
	case "-v", "-version", "--version":
		return "version", args[1:]
	}
	return args[0], args[1:]
}

func findCommand(name string) (command, error) {
	var names []string
	for _, c := range commands() {
		if c.name == name {
			return c, nil
		}
		names = append(names, c.name)
	}
	what := fmt.Sprintf("there is no command %q", name)
	switch {
	case name == "":
		what = "name a command"
	case strings.HasPrefix(name, "-"):
		what = fmt.Sprintf("name a command before %s", name)
	}
	return command{}, &usageError{what: what + ": " + strings.Join(names, ", ")}
}

// parse reads the flags and returns the operands. The error is a *usageError, or flag.ErrHelp if help was asked for.
func (c command) parse(flags *flag.FlagSet, args []string) ([]string, error) {
	flags.SetOutput(io.Discard)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil, flag.ErrHelp
	case err != nil:
		return nil, &usageError{what: flagProblem(err.Error()), command: c.name}
	case flags.NArg() > c.most:
		return nil, &usageError{what: fmt.Sprintf("%s does not expect %q", c.name, flags.Arg(c.most)), command: c.name}
	}
	return flags.Args(), nil
}

// flagProblem says in our words what package flag says of a flag.
func flagProblem(message string) string {
	if name, ok := strings.CutPrefix(message, "flag provided but not defined: -"); ok {
		return "there is no flag " + dashes(name)
	}
	if name, ok := strings.CutPrefix(message, "flag needs an argument: -"); ok {
		return dashes(name) + " needs a value"
	}
	if rest, ok := strings.CutPrefix(message, "invalid value "); ok {
		value, rest, _ := strings.Cut(rest, " for flag -")
		name, reason, _ := strings.Cut(rest, ": ")
		return dashes(name) + " " + value + ": " + reason
	}
	return message
}

// help prints everything about the command.
func (c command) help(w io.Writer) error {
	flags := flag.NewFlagSet(c.name, flag.ContinueOnError)
	c.setup(flags)
	usage := "usage: slid " + c.name
	var lines strings.Builder
	flags.VisitAll(func(f *flag.Flag) {
		value, text := flag.UnquoteUsage(f)
		name := strings.TrimRight(dashes(f.Name)+" "+value, " ")
		usage += " [" + name + "]"
		fmt.Fprintf(&lines, "  %-16s %s\n", name, text)
	})
	if c.operands != "" {
		usage += " " + c.operands
	}
	if lines.Len() > 0 {
		lines.WriteString("\n")
	}
	_, err := fmt.Fprintf(w, "%s\n\n%s%s\n", usage, lines.String(), c.about)
	return err
}

func dashes(flagName string) string {
	if len(flagName) == 1 {
		return "-" + flagName
	}
	return "--" + flagName
}

// A choice is a flag with a fixed set of values.
type choice[T any] struct {
	value   *T
	options []option[T]
}

// An option is one value of a choice.
type option[T any] struct {
	name  string
	value T
}

// choose declares a flag whose default is the first option.
func choose[T any](flags *flag.FlagSet, name, usage string, options []option[T]) *T {
	value := new(T)
	*value = options[0].value
	c := choice[T]{value: value, options: options}
	flags.Var(c, name, fmt.Sprintf("%s: %s", usage, c.names()))
	return value
}

func (c choice[T]) names() string {
	var names []string
	for _, o := range c.options {
		names = append(names, o.name)
	}
	return strings.Join(names, ", ")
}

// String is part of flag.Value; the help text says the default.
func (c choice[T]) String() string { return "" }

// Set takes the option of the given name.
func (c choice[T]) Set(name string) error {
	for _, o := range c.options {
		if o.name == name {
			*c.value = o.value
			return nil
		}
	}
	return fmt.Errorf("choose one of %s", c.names())
}

// period is a flag for a time span that must be positive.
type period time.Duration

// String is part of flag.Value; the help text says the default.
func (p *period) String() string { return "" }

// Set parses a duration. Shorter than a tenth of a second there is nothing to see but noise.
func (p *period) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		return errors.New("write it with a unit, such as 10s or 2m")
	}
	if d < 100*time.Millisecond {
		return errors.New("must be at least 100ms")
	}
	*p = period(d)
	return nil
}
