package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/slid-agent/slid/exporter/text"
	"github.com/slid-agent/slid/internal/local"
	"github.com/slid-agent/slid/internal/pipeline"
	"github.com/slid-agent/slid/internal/verdict"
)

// keeper returns what remembers the last window of a pipeline for who asks, and how to feed it. verdicts is asked when
// somebody asks.
func (p *parts) keeper(verdicts func() []verdict.Verdict) (*text.Keeper, pipeline.Destination) {
	k := text.NewKeeper(text.Options{Verdicts: verdicts, SLOs: p.slos})
	return k, pipeline.Destination{Name: "questions", Exporter: k, Metrics: text.Metrics()}
}

// answer lets programs on this host ask the agent until the returned function is called. Where that is impossible the
// agent runs all the same.
func (s *server) answer(ctx context.Context, k *text.Keeper) (stop func()) {
	path := socketPath()
	_ = os.Mkdir(filepath.Dir(path), 0o755) // what is wrong shows in the next call
	l, err := local.Listen(path)
	if err != nil {
		s.log.Info("the agent cannot be asked: slid sli, top and check will measure by themselves", "error", err)
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- local.Serve(ctx, l, k.JSON) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			s.log.Warn("the agent could not be asked any more", "error", err)
		}
	}
}

// errStarting says that the agent has no window yet.
var errStarting = errors.New("the agent has just started and has not measured a whole interval yet")

// askAgent returns the last report of the running agent; local.ErrNoAgent if there is none.
func askAgent(ctx context.Context) (*text.Report, error) {
	data, err := local.Ask(ctx, socketPath())
	if err != nil {
		return nil, err
	}
	var r struct {
		text.Report
		Error string `json:"error"`
	}
	switch err := json.Unmarshal(data, &r); {
	case err != nil:
		return nil, fmt.Errorf("the agent at %s talks nonsense: %w", socketPath(), err)
	case r.Error != "":
		return nil, fmt.Errorf("the agent at %s: %s", socketPath(), r.Error)
	case r.SchemaVersion != text.SchemaVersion:
		return nil, fmt.Errorf("the agent at %s talks version %d, this is %d", socketPath(), r.SchemaVersion, text.SchemaVersion)
	}
	return &r.Report, nil
}

// askAgentOrSay is askAgent for commands that can measure by themselves: nothing if the agent has nothing to say, and
// why not goes to stderr, unless there is none.
func askAgentOrSay(ctx context.Context, t terminal, needed func(*text.Report) bool) *text.Report {
	r, err := askAgent(ctx)
	if err == nil && !needed(r) {
		err = errStarting
	}
	switch {
	case errors.Is(err, local.ErrNoAgent):
		return nil
	case err != nil:
		fmt.Fprintf(t.stderr, "slid: %v: measuring by itself\n", err)
		return nil
	}
	return r
}

// sayAsked says whose figures follow.
func sayAsked(t terminal) {
	fmt.Fprintln(t.stderr, "slid: asked the running agent; --for measures anew")
}
