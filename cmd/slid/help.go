package main

import (
	"context"
	"flag"
	"fmt"
	"strings"
)

func helpCommand() command {
	return command{
		name: "help", summary: "explain a command, or list all", operands: "[COMMAND]", most: 1,
		about: "Lists the commands, or explains one.",
		setup: func(*flag.FlagSet) action { return printHelp },
	}
}

func printHelp(_ context.Context, t terminal, operands []string) error {
	if len(operands) == 1 {
		c, err := findCommand(operands[0])
		if err != nil {
			return err
		}
		return c.help(t.stdout)
	}
	var b strings.Builder
	b.WriteString("slid measures the service levels of what runs on this host, the host and its kernel.\n\n" +
		"usage: slid COMMAND [flags]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-8s %s\n", c.name, c.summary)
	}
	b.WriteString("\nslid help COMMAND explains a command.\n")
	_, err := fmt.Fprint(t.stdout, b.String())
	return err
}
